"""Packed pages as files: what the disk tier and saved memories are made of. Bit for bit, with any codec."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness.cache.codecs import Packed
from harness.system.files import write_bytes


class DamagedPage(OSError):
    """A page's file is gone, cut short or not one of ours."""


def write_page(path: Path, packed: Packed, remedy: str) -> None:
    """One file a page, which appears whole or not at all. Raises OSError with `remedy` when it cannot be written.

    Not flushed to the device: pages of a running rollout are of no use to another process, only their renaming must not
    overtake their content, and a reader checks the length.
    """
    parts = {f"{name}.{i}": x for name, group in (("k", packed.k), ("v", packed.v)) for i, x in enumerate(group)}
    others = {"positions": packed.positions, "mass": packed.mass, "present": packed.present, "dtype": torch.empty(0, dtype=packed.dtype)}
    tensors = parts | {name: x for name, x in others.items() if x is not None}
    write_bytes(path, save({name: alone(x) for name, x in tensors.items()}), remedy)


def read_page(path: Path, remedy: str) -> Packed:
    """A page in host memory. Raises DamagedPage with `remedy`."""
    try:
        tensors = load(path.read_bytes())
        k, v = (tuple(tensors[f"{name}.{i}"] for i in range(sum(key.startswith(f"{name}.") for key in tensors))) for name in ("k", "v"))
        if not k or not v:
            raise KeyError("k or v")
        return Packed(k, v, tensors["positions"], tensors["dtype"].dtype, tensors.get("mass"), tensors.get("present"))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise DamagedPage(f"the page {path} is damaged or gone ({error}); {remedy}") from error


def alone(x: Tensor) -> Tensor:
    """A tensor in host memory that shares nothing: a view would be written with all that it looks into."""
    return x.detach().cpu().contiguous()
