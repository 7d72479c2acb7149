"""A session in a folder: the world goes on in another process, and revisits still work.

A folder a trajectory: `session.json` (settings and states), `tensors.safetensors`, and `pages/`, one file a stored page. Nothing in
it is code. It appears whole, by renaming the folder.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness.cache.codecs import Packed
from harness.cache.page_files import read_page, write_page
from harness.datatypes import Geometry, Trajectory
from harness.settings.nested import flatten
from harness.snapshot.plain_values import decode, encode
from harness.system.files import atomic_folder, file_name, write_bytes

SCHEMA = 2
FULL = "the old snapshot, if there was one, is still there: free some space, or choose another snapshot.save"
DAMAGED = "save that snapshot again, or choose another snapshot.load"
PATH = ("c2w", "intrinsics", "actions")


class Saved(NamedTuple):
    """about: the settings that it belongs to. state: what `write_snapshot` was given. pages: stored pages by frame, read as one goes."""

    about: dict
    state: dict
    pages: Iterator[tuple[int, Packed]]


def write_snapshot(folder: Path, about: Mapping[str, object], geometry: Geometry, state: dict, pages: Iterable[tuple[int, Packed]]) -> None:
    """Write a session's state (tensors and plain values) and its bank's pages.

    Raises ValueError for a state that cannot be written, OSError when the disk is full; an older snapshot then stays.
    """
    tensors: dict[str, Tensor] = {}
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "about": _about(about, geometry),
        "stored": [],
        "state": {name: encode(part, tensors, name) for name, part in state.items()},
    }
    with atomic_folder(folder) as temporary:
        (temporary / "pages").mkdir()
        for frame, packed in pages:
            write_page(_page(temporary, frame), packed, FULL)
            record["stored"].append(frame)
        write_bytes(temporary / "tensors.safetensors", save({k: x.contiguous() for k, x in tensors.items()}), FULL, flush=True)
        write_bytes(temporary / "session.json", json.dumps(record).encode(), FULL, flush=True)


def read_snapshot(folder: Path, about: Mapping[str, object], geometry: Geometry) -> Saved:
    """What `write_snapshot` wrote, tensors on the geometry's device. Raises ValueError for a damaged one or one of other settings, naming them."""
    try:
        record = json.loads((folder / "session.json").read_bytes())
        tensors = load((folder / "tensors.safetensors").read_bytes())
        assert record["schema"] == SCHEMA, f"schema {record['schema']}, this version reads {SCHEMA}"
        _check_same(folder, record["about"], json.loads(json.dumps(_about(about, geometry))))
        return Saved(
            record["about"], {name: decode(node, tensors, geometry.device) for name, node in record["state"].items()}, _pages(folder, record["stored"])
        )
    except (SafetensorError, AssertionError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the snapshot {folder} is damaged or of another version ({error}); {DAMAGED}") from error


def find_snapshot(load_from: Path, name: str) -> Path:
    """The folder of a trajectory's snapshot: `load_from` itself, or the one of that name in it. Raises ValueError without any."""
    for folder in (load_from, load_from / file_name(name)):
        if (folder / "session.json").is_file():
            return folder
    have = sorted(p.parent.name for p in load_from.glob("*/session.json")) if load_from.is_dir() else []
    what = f"it has {', '.join(have)}" if have else "no snapshot was saved there"
    raise ValueError(
        f"snapshot.load={load_from} has no snapshot of {name}: {what}; name one of them (snapshot.load=FOLDER/NAME), or save one with snapshot.save"
    )


def is_saved(folder: Path, name: str) -> bool:
    return (folder / file_name(name) / "session.json").is_file()


def check_same_path(folder: Path, saved: Trajectory, path: Trajectory) -> None:
    """What was generated belongs to where the camera was. Raises ValueError naming the first video frame that differs."""
    for name in PATH:
        theirs, ours = getattr(saved, name), getattr(path, name)
        same = [torch.equal(a, b) for a, b in zip(theirs, ours, strict=False)]
        if len(ours) < len(theirs) or not all(same):
            at = same.index(False) if not all(same) else len(ours)
            raise ValueError(
                f"the snapshot {folder} was made along another path than {path.name}: {name} differ at video frame {at} of the first {len(theirs)}; "
                f"continue it along a trajectory that begins as the saved one did"
            )


def _about(about: Mapping[str, object], g: Geometry) -> dict[str, object]:
    """The settings that a snapshot belongs to: the given ones, and the network's sizes."""
    return dict(about) | {"geometry": {k: v if isinstance(v, int) else str(v) for k, v in asdict(g).items() if k != "device"} | {"device": g.device.type}}


def _check_same(folder: Path, theirs: dict, ours: dict) -> None:
    a, b = flatten(theirs), flatten(ours)
    if differ := [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]:
        named = "; ".join(f"{k} is {a.get(k, 'absent')} there and {b.get(k, 'absent')} here" for k in differ[:8])
        raise ValueError(f"the snapshot {folder} was saved under other settings: {named}; load it with its own, or save one with these (snapshot.save)")


def _pages(folder: Path, frames: list[int]) -> Iterator[tuple[int, Packed]]:
    return ((frame, read_page(_page(folder, frame), DAMAGED)) for frame in frames)


def _page(folder: Path, frame: int) -> Path:
    return folder / "pages" / f"{frame:07d}.safetensors"
