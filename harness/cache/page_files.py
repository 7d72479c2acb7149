"""Packed pages as files: what the disk tier and saved memories are made of. Bit for bit, with any codec."""

from pathlib import Path
from zlib import crc32

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness.cache.codecs import Packed
from harness.system.files import write_bytes


class DamagedPage(OSError):
    """A page's file is gone, cut short, changed or not one of ours."""


def write_page(path: Path, packed: Packed, remedy: str) -> int:
    """One file a page, which appears whole or not at all. Returns its checksum. Raises OSError with `remedy` when it cannot be written.

    Not flushed to the device: pages of a running rollout are of no use to another process, only their renaming must not
    overtake their content, and a reader checks the sum.
    """
    parts = {f"{name}.{i}": x for name, group in (("k", packed.k), ("v", packed.v)) for i, x in enumerate(group)}
    others = {"positions": packed.positions, "mass": packed.mass, "present": packed.present, "dtype": torch.empty(0, dtype=packed.dtype)}
    tensors = parts | {name: x for name, x in others.items() if x is not None}
    data = save({name: alone(x) for name, x in tensors.items()})
    write_bytes(path, data, remedy)
    return crc32(data)


def read_page(path: Path, remedy: str, checksum: int | None) -> Packed:
    """A page in host memory. checksum: what `write_page` returned; None for a file of a version that knew none.

    Raises DamagedPage with `remedy`, also where a single bit has changed.
    """
    try:
        tensors = load(checked(path.read_bytes(), checksum))
        k, v = (tuple(tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))) for name in ("k", "v"))
        if not k or not v:
            raise KeyError("k or v")
        return Packed(k, v, tensors["positions"], tensors["dtype"].dtype, tensors.get("mass"), tensors.get("present"))
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:
        raise DamagedPage(f"the page {path} is damaged or gone ({error}); {remedy}") from error


def checked(data: bytes, checksum: int | None) -> bytes:
    """The data of a file. Raises ValueError where they are not those that were written."""
    if checksum is not None and crc32(data) != checksum:
        raise ValueError(f"its checksum is {crc32(data):08x}, and {checksum:08x} was written")
    return data


def alone(x: Tensor) -> Tensor:
    """A tensor in host memory that shares nothing: a view would be written with all that it looks into."""
    return x.detach().cpu().contiguous()
