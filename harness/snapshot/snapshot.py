"""A session saved and opened again: the world goes on in another process, and revisits still work.

A folder a trajectory: `session.json` (position, page table, states), `tensors.safetensors`, and `pages/`, one file a stored
page. Nothing in it is code. It appears whole, by renaming the folder.
"""

import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from harness.cache.codecs import Packed
from harness.cache.page_files import read_page, write_page
from harness.datatypes import ChunkStats, Geometry
from harness.session import Session
from harness.settings.nested import flatten
from harness.snapshot.plain_values import decode, encode, restore, state_of
from harness.system.files import file_name, write_bytes

SCHEMA = 1
FULL = "the old snapshot, if there was one, is still there: free some space, or choose another snapshot.save"
DAMAGED = "save that snapshot again, or choose another snapshot.load"
PATH = ("c2w", "intrinsics", "actions")


@dataclass(frozen=True)
class Snapshot:
    """save: a folder for the snapshot of every trajectory at its end. load: such a folder, or one trajectory's in it, to go on
    from. chunks: stop after so many. about: the settings that a snapshot belongs to, by name; one saved under other settings
    is refused."""

    save: Path | None = None
    load: Path | None = None
    chunks: int | None = None
    about: Mapping[str, object] = field(default_factory=dict)

    def begin(self, session: Session, total: int) -> None:
        """Before the first chunk of `total`. Raises ValueError for a snapshot that does not fit, naming both sides."""
        if self.save is not None:
            session.backbone.state()  # what cannot be saved says so now, and not at the end
        if self.load is not None:
            open_snapshot(find(self.load, session.trajectory.name), session, dict(self.about), total)

    def end(self, session: Session) -> None:
        if self.save is not None:
            save_snapshot(self.save / file_name(session.trajectory.name), session, dict(self.about))


NO_SNAPSHOT = Snapshot()


def save_snapshot(folder: Path, session: Session, about: dict) -> None:
    """Raises ValueError for a state that cannot be written, OSError when the disk is full; an older snapshot then stays."""
    g, t = session.backbone.geometry, session.trajectory
    if g.device.type == "cuda":
        torch.cuda.synchronize()  # pages may still be on their way to host memory
    tensors: dict[str, Tensor] = {f"path.{name}": getattr(t, name)[: g.frames_px(session.done * g.chunk)] for name in PATH}
    states = {"window": session.context.state(), "policy": state_of(session.policy, "policy"), "backbone": session.backbone.state()}
    made = {"frames": session.frames.made, "latents": session.latents.made}
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "about": about | _geometry(g),
        "trajectory": t.name,
        "done": session.done,
        "noise": session.noise,
        "rows": list(session.bank.row_table.items()),
        "stored": [],
        "states": {name: encode(state, tensors, name) for name, state in (states | made).items()},
        "stats": [asdict(s) for s in session.stats],
    }
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.partial")
    try:
        (temporary / "pages").mkdir(parents=True)
        for frame, packed in session.bank.stored():
            write_page(_page(temporary, frame), packed, FULL)
            record["stored"].append(frame)
        write_bytes(temporary / "tensors.safetensors", save({k: x.contiguous() for k, x in tensors.items()}), FULL, flush=True)
        write_bytes(temporary / "session.json", json.dumps(record).encode(), FULL, flush=True)
        old = temporary.with_suffix(".old")
        if folder.exists():
            folder.replace(old)
        temporary.replace(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_snapshot(folder: Path, session: Session, about: dict, total: int) -> None:
    """Bring a session that was just reset to where `folder` left off.

    Raises FileNotFoundError or ValueError: no snapshot there, a damaged one, one of other settings or of another path, or one
    that is longer than this rollout.
    """
    g = session.backbone.geometry
    try:
        record = json.loads((folder / "session.json").read_bytes())
        tensors = load((folder / "tensors.safetensors").read_bytes())
        assert record["schema"] == SCHEMA, f"schema {record['schema']}, this version reads {SCHEMA}"
        _same(folder, record["about"], json.loads(json.dumps(about | _geometry(g))))
        if record["done"] >= total:
            raise ValueError(f"the snapshot {folder} holds {record['done']} chunks, this rollout ends after {total}; continue it along a longer trajectory")
        _same_path(folder, tensors, session)
        states = {name: decode(node, tensors, g.device) for name, node in record["states"].items()}
        session.bank.restore({f: n for f, n in record["rows"]}, _pages(folder, record["stored"]))
        session.context.restore(states["window"])
        restore(session.policy, states["policy"])
        session.backbone.restore(states["backbone"])
        session.frames.add(states["frames"])
        session.latents.add(states["latents"])
        session.stats += [_stats(row) for row in record["stats"]]
        session.noise, session.done = record["noise"], record["done"]
    except (SafetensorError, AssertionError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the snapshot {folder} is damaged or of another version ({error}); {DAMAGED}") from error


def _stats(row: dict[str, Any]) -> ChunkStats:
    columns: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return ChunkStats(**columns)


def find(load_from: Path, name: str) -> Path:
    """The folder of a trajectory's snapshot: `load_from` itself, or the one of that name in it."""
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


def _pages(folder: Path, frames: list[int]) -> Iterator[tuple[int, Packed]]:
    return ((frame, read_page(_page(folder, frame), DAMAGED)) for frame in frames)


def _page(folder: Path, frame: int) -> Path:
    return folder / "pages" / f"{frame:07d}.safetensors"


def _geometry(g: Geometry) -> dict:
    return {"geometry": {k: v if isinstance(v, int) else str(v) for k, v in asdict(g).items() if k != "device"} | {"device": g.device.type}}


def _same(folder: Path, theirs: dict, ours: dict) -> None:
    a, b = flatten(theirs), flatten(ours)
    if differ := [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]:
        named = "; ".join(f"{k} is {a.get(k, 'absent')} there and {b.get(k, 'absent')} here" for k in differ[:8])
        raise ValueError(f"the snapshot {folder} was saved under other settings: {named}; load it with its own, or save one with these (snapshot.save)")


def _same_path(folder: Path, tensors: dict[str, Tensor], session: Session) -> None:
    """What was generated belongs to where the camera was."""
    for name in PATH:
        theirs, ours = tensors[f"path.{name}"], getattr(session.trajectory, name)
        same = [torch.equal(a, b) for a, b in zip(theirs, ours, strict=False)]
        if len(ours) < len(theirs) or not all(same):
            at = same.index(False) if not all(same) else len(ours)
            raise ValueError(
                f"the snapshot {folder} was made along another path than {session.trajectory.name}: {name} differ at video frame {at} of the first "
                f"{len(theirs)}; continue it along a trajectory that begins as the saved one did"
            )
