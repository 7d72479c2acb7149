"""A walk in a folder: sessions to go on with, runs that the report opens, and a camera path that `world=recorded` takes."""

import json
import re
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from harness.cache.stores import GpuStore
from harness.playing.pane import Pane, picture, psnr
from harness.playing.setup import Choice
from harness.playing.walk import Walk
from harness.session import Session
from harness.system.files import atomic_folder, write_atomic
from harness.trajectory import Trajectory
from harness.worlds.covisibility import CoVisibility
from harness.worlds.revisits import find_pairs

FOLDER = Path("outputs/play")
SCHEMA = 1
SAVED_SIZE = (480, 832)  # pixels that recorded intrinsics are in: the default of world=recorded


def folder_name(name: str) -> str:
    """A walk's name as that of its folder; the time, where it has none. Raises ValueError for what is no plain name."""
    name = name.strip() or datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}", name):
        raise ValueError(f"{name!r} is no name for a walk; use up to 60 letters, digits and _ . -")
    return name


def saved_walks() -> list[str]:
    return sorted(p.parent.name for p in FOLDER.glob("*/walk.json"))


def save(walk: Walk, name: str) -> Path:
    """Write a walk to outputs/play/NAME, whole or not at all; one of that name is replaced. Returns the folder."""
    from harness.playing.run_folders import write_runs  # takes seconds (lightning, torchmetrics)

    folder = FOLDER / folder_name(name)
    if walk.broken or walk.done < 2:
        raise ValueError(
            "there is nothing to save yet: walk a chunk first" if not walk.broken else f"this walk is broken ({walk.broken}); go back to a place first"
        )
    setup = walk.setup
    with atomic_folder(folder) as temporary:
        task = scored_path(walk)
        _write_path(temporary / "path" / task.name, walk, task)
        for i, pane in enumerate(walk.panes):
            (temporary / "sessions").mkdir(exist_ok=True)
            pane.session.save(temporary / "sessions" / str(i), pane.made.about)
        write_runs(temporary, walk.panes, task, roundtrip(walk, task), setup.cfg.seed)
        about = {
            "schema": SCHEMA,
            "overrides": list(walk.setup.overrides),
            "index": setup.index,
            "panes": [asdict(p.made.choice) | {"since": p.since} for p in walk.panes],
            "camera": [walk.camera.x, walk.camera.z, walk.camera.yaw],
        }
        write_atomic(temporary / "walk.json", json.dumps(about, indent=1))
    return folder


def read_about(folder: Path) -> dict:
    """What `save` says of a walk. Raises ValueError for a folder that holds none."""
    try:
        about = json.loads((folder / "walk.json").read_text())
        if about["schema"] != SCHEMA:
            raise ValueError(f"{folder} was saved by another version (schema {about['schema']}, this one reads {SCHEMA})")
        if not isinstance(about["overrides"], list) or not isinstance(about["index"], int) or len(about["camera"]) != 3 or not choices_of(about):
            raise TypeError("it is damaged")
        return about
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        known = ", ".join(saved_walks()) or "none yet"
        raise ValueError(f"{folder} holds no saved walk ({error}); walks in {FOLDER}: {known}") from None


def reopen(walk: Walk, folder: Path) -> None:
    """Go on from a saved walk, in place of the present one. Raises ValueError for one of another world or model."""
    about = read_about(folder)
    setup = walk.setup
    if (about["overrides"], about["index"]) != (list(setup.overrides), setup.index):
        theirs = " ".join([*about["overrides"], f"start={about['index']}"])
        raise ValueError(f"{folder.name} was walked with {theirs}; open it by: python harness/play.py open={folder}")
    panes = []
    for i, saved in enumerate(about["panes"]):
        made = setup.make(Choice(saved["policy"], saved["budget"], saved["ratio"]))
        session = Session.open(folder / "sessions" / str(i), setup.backbone, made.policy, made.store, about=made.about)
        session.path = replace(session.path, metres=setup.start.metres)
        panes.append(Pane(made, session, saved["since"], [picture(f) for f in session.frames.made]))
    walk.close()
    x, z, yaw = about["camera"]
    walk.panes, walk.camera = panes, replace(setup.camera(), x=x, z=z, yaw=yaw)
    path = walk.path
    if setup.ground:
        walk.truth = list(setup.ground.view(path.c2w, path.intrinsics, setup.size).cpu())
        walk.true_pictures = [picture(f) for f in walk.truth]
    g = setup.backbone.geometry
    ends = [g.frames_px((c + 1) * g.chunk) - 1 for c in range(walk.done)]
    for pane in panes:
        pane.psnr = [psnr(pane.session.frames.made[e], walk.truth[e]) if walk.truth else None for e in ends]
    walk.renew()


def scored_path(walk: Walk) -> Trajectory:
    """The path so far as a task: its revisit pairs and true views."""
    path, setup = walk.path, walk.setup
    truth = CoVisibility(setup.ground.scene, path.c2w, path.intrinsics, setup.size) if setup.ground else None
    gap, overlap = int(setup.cfg.world.get("min_gap") or 9), float(setup.cfg.world.get("overlap") or 0.25)
    pairs = find_pairs(path.c2w, setup.fov, setup.backbone.geometry.stride_px, gap, overlap=overlap, truth=truth)
    return replace(path, pairs=pairs, reference=torch.stack(walk.truth) if walk.truth else None, overlap=truth)


def _write_path(folder: Path, walk: Walk, task: Trajectory) -> None:
    """Files of `harness.worlds.recorded`. The first pose is held as long as the model needs: `world.lead_in` does that again."""
    folder.mkdir(parents=True)
    lead = task.given - 1
    rows, columns = walk.setup.size
    scale = torch.tensor([SAVED_SIZE[1] / columns, SAVED_SIZE[0] / rows] * 2)
    np.save(folder / "poses.npy", task.c2w[lead:].numpy())
    np.save(folder / "intrinsics.npy", (task.intrinsics[lead:] * scale).numpy())
    np.save(folder / "actions.npy", task.actions[lead:].numpy())
    if task.reference is not None:
        np.save(folder / "frames.npy", _bytes(task.reference[lead:]))
    Image.fromarray(_bytes(task.images[:1])[0]).save(folder / "first.png")


def _bytes(frames: Float[Tensor, "n 3 y x"]) -> np.ndarray:
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def roundtrip(walk: Walk, task: Trajectory) -> torch.Tensor | None:
    """The autoencoder's round trip of the true views, which ends a rollout: on a session of its own, so that no pane's is ended."""
    if task.reference is None:
        return None
    made = walk.setup.make(walk.panes[0].made.choice)
    scratch = Session.begin(walk.setup.backbone, made.policy, GpuStore(), walk.setup.start, walk.setup.cfg.seed)
    try:
        return walk.setup.backbone.roundtrip(task.reference)
    finally:
        scratch.close()


def choices_of(about: dict) -> list[Choice]:
    return [Choice(p["policy"], p["budget"], p["ratio"]) for p in about["panes"]]
