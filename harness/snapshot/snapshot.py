"""A session in a folder: the world goes on in another process, and revisits still work.

A folder a trajectory: `session.json` (settings and states), `tensors.safetensors`, and `pages/`, one file a stored page. Nothing in
it is code, and all of it has checksums. It appears whole, by renaming the folder.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from sys import maxsize
from typing import Any, NamedTuple
from zlib import crc32

import torch
from safetensors.torch import load, save
from torch import Tensor

from harness.cache.codecs import Packed
from harness.cache.page_files import checked, read_page, write_page
from harness.datatypes import Geometry
from harness.settings.nested import flatten
from harness.snapshot.plain_values import decode, encode
from harness.snapshot.saved_state import check_state
from harness.system.files import atomic_folder, file_name, put_back, summed, unsummed, write_bytes
from harness.trajectory import Trajectory
from harness.worlds.chunks import chunk_count

SCHEMA = 3
SUMMED = 3  # from this schema on every file has a checksum; older snapshots are read without
READ = (2, 3)
TENSORS = "tensors.safetensors"
FULL = "the old snapshot, if there was one, is still there: free some space, or choose another snapshot.save"
DAMAGED = "save that snapshot again, or choose another snapshot.load"
UNWRITTEN = ("columns", "ranks", "model_heads")  # how tokens lie, and who shares a rollout: a saved session's alone
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
        "stored": {},  # frame -> the checksum of its page
        "state": {name: encode(part, tensors, name) for name, part in state.items()},
    }
    with atomic_folder(folder) as temporary:
        (temporary / "pages").mkdir()
        for frame, packed in pages:
            record["stored"][str(frame)] = write_page(_page(temporary, frame), packed, FULL)
        data = save({k: x.contiguous() for k, x in tensors.items()})
        write_bytes(temporary / TENSORS, data, FULL, flush=True)
        record["tensors"] = crc32(data)
        write_bytes(temporary / "session.json", json.dumps(summed(record)).encode(), FULL, flush=True)


def read_snapshot(folder: Path, about: Mapping[str, object], geometry: Geometry) -> Saved:
    """What `write_snapshot` wrote, tensors on the geometry's device. Raises ValueError for a damaged one or one of other settings, naming them."""
    theirs, state, pages = _read(folder, geometry.device)
    _check_same(folder, theirs, json.loads(json.dumps(_about(about, geometry))))
    return Saved(theirs, state, _pages(folder, pages))


def read_state(folder: Path) -> tuple[dict, dict]:
    """Settings and state of any snapshot, in host memory, whatever settings it was saved under. Raises ValueError for one that is damaged or no session's."""
    about, state, _ = _read(folder, torch.device("cpu"))
    try:
        check_state(state, _geometry(about))
    except Exception as error:  # noqa: BLE001  (whatever a damaged one leads to)
        raise damaged(folder, error) from error
    return about, state


def _read(folder: Path, device: torch.device) -> tuple[dict, dict, dict[int, int | None]]:
    """Settings, state and the checksums of pages by frame."""
    try:
        record = json.loads((folder / "session.json").read_bytes())
        if record["schema"] not in READ:
            raise ValueError(f"schema {record['schema']}, this version reads {' and '.join(map(str, READ))}")
        if record["schema"] >= SUMMED and "sum" not in record:
            raise ValueError("session.json has no checksum")
        record = unsummed(record)
        sums = record["stored"] if isinstance(record["stored"], dict) else dict.fromkeys(record["stored"])
        pages = {int(frame): checksum for frame, checksum in sums.items()}
        tensors = load(checked((folder / TENSORS).read_bytes(), record.get("tensors")))
        state = {name: decode(node, tensors, device) for name, node in record["state"].items()}
        theirs = dict(record["about"])
    except Exception as error:  # noqa: BLE001  (whatever a damaged file leads to)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        raise damaged(folder, error) from error
    return theirs, state, pages


def damaged(folder: Path, error: Exception) -> ValueError:
    """What to say of a snapshot that cannot be read."""
    return ValueError(f"the snapshot {folder} is damaged or of another version ({type(error).__name__}: {error}); {DAMAGED}")


def find_snapshot(load_from: Path, name: str, setting: str = "snapshot.load", remedy: str = "save one with snapshot.save") -> Path:
    """The folder of a trajectory's snapshot: `load_from` itself, or the one of that name in it. Raises ValueError without any. setting, remedy:
    what one typed, and what to do."""
    for folder in (load_from, load_from / file_name(name)):
        put_back(folder)
        if (folder / "session.json").is_file():
            return folder
    have = sorted(p.parent.name for p in load_from.glob("*/session.json")) if load_from.is_dir() else []
    what = f"it has {', '.join(have)}" if have else "no snapshot was saved there"
    raise ValueError(f"{setting}={load_from} has no snapshot of {name}: {what}; name one of them ({setting}=FOLDER/NAME), or {remedy}")


def is_saved(
    folder: Path, name: str, path: Callable[[], Trajectory], about: Mapping[str, object], seed: int, chunks: int | None = None, goes_on: bool = False
) -> bool:
    """Whether a trajectory's snapshot of these settings at the end of its path is there; a damaged one is not. Raises ValueError where another's is,
    which would be lost.

    path: asked for where there is a snapshot. chunks: after which it was to stop. goes_on: whether what is there is where the rollout begins, and may
    be replaced by its continuation.
    """
    place = folder / file_name(name)
    put_back(place)
    try:
        record = json.loads((place / "session.json").read_bytes())
        theirs = flatten({k: record["about"][k] for k in about} | {"seed": record["state"]["seed"]})
    except (OSError, ValueError, KeyError, TypeError):
        return False
    ours = flatten(json.loads(json.dumps(dict(about) | {"seed": seed})))
    if named := _differences(theirs, ours, 4):
        raise ValueError(f"{place} is a snapshot of other settings ({named}), and would be replaced; choose another snapshot.save")
    try:
        _, state = read_state(place)
    except ValueError:
        return False
    mine = path()
    lasts = min(chunk_count(mine, _geometry(record["about"])), chunks or maxsize)
    if (wrong := _other_path(state["path"], mine)) is None and state["done"] == lasts:
        return True
    if goes_on:
        return False
    why = f"another path than {name}" if wrong else f"{state['done']} chunks, and this run's is of {lasts}"
    raise ValueError(f"{place} is a snapshot of {why}; it would be replaced: choose another snapshot.save")


def check_same_path(folder: Path, saved: Trajectory, path: Trajectory) -> None:
    """What was generated belongs to where the camera was. Raises ValueError naming the first video frame that differs."""
    if (wrong := _other_path(saved, path)) is not None:
        name, at = wrong
        raise ValueError(
            f"the snapshot {folder} was made along another path than {path.name}: {name} differ at video frame {at} of the first {len(saved.c2w)}; "
            f"continue it along a trajectory that begins as the saved one did"
        )
    given = min(len(saved.images), len(path.images))
    if saved.images.shape[1:] != path.images.shape[1:] or not torch.equal(saved.images[:given], path.images[:given]):
        raise ValueError(f"the snapshot {folder} was made of other images than {path.name}: continue it along the trajectory that it was saved of")


def _other_path(saved: Trajectory, path: Trajectory) -> tuple[str, int] | None:
    """What differs first, and at which video frame, where a path does not begin as the saved one."""
    for name in PATH:
        theirs, ours = getattr(saved, name), getattr(path, name)
        same = [torch.equal(a, b) for a, b in zip(theirs, ours, strict=False)]
        if len(ours) < len(theirs) or not all(same):
            return name, same.index(False) if not all(same) else len(ours)
    return None


def _geometry(about: Mapping[str, Any]) -> Geometry:
    return Geometry(**{k: about["geometry"][k] for k in ("layers", "heads", "head_dim", "tokens", "chunk", "stride_px")})


def _about(about: Mapping[str, object], g: Geometry) -> dict[str, object]:
    """The settings that a snapshot belongs to: the given ones, and the network's sizes (what older ones did not write left out)."""
    sizes = {k: v if isinstance(v, int) else str(v) for k, v in asdict(g).items() if k not in ("device", *UNWRITTEN)}
    return dict(about) | {"geometry": sizes | {"device": g.device.type}}


def _check_same(folder: Path, theirs: dict, ours: dict) -> None:
    if named := _differences(flatten(theirs), flatten(ours), 8):
        raise ValueError(f"the snapshot {folder} was saved under other settings: {named}; load it with its own, or save one with these (snapshot.save)")


def _differences(theirs: Mapping[str, object], ours: Mapping[str, object], most: int) -> str:
    differ = [k for k in dict.fromkeys([*theirs, *ours]) if theirs.get(k) != ours.get(k)]
    return "; ".join(f"{k} is {theirs.get(k, 'absent')} there and {ours.get(k, 'absent')} here" for k in differ[:most])


def _pages(folder: Path, sums: Mapping[int, int | None]) -> Iterator[tuple[int, Packed]]:
    return ((frame, read_page(_page(folder, frame), DAMAGED, checksum)) for frame, checksum in sums.items())


def _page(folder: Path, frame: int) -> Path:
    return folder / "pages" / f"{frame:07d}.safetensors"
