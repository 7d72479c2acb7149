"""Videos with their poses or actions beside them: a folder a video, or many in one folder, each with files that begin as it does."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from harness.system.files import folders_below
from harness.worlds.films import FILMS, films_in
from harness.worlds.formats import find_cameras, read_cameras
from harness.worlds.formats.arrays import named, read_array
from harness.worlds.formats.cameras import Cameras, check_intrinsics
from harness.worlds.formats.tables import is_table
from harness.worlds.formats.tables import read as read_table
from harness.worlds.layouts.clip import Clip, Reading, Track
from harness.worlds.poses import integrate

TRUE = ("true", "truth", "gt", "reference")  # names of true films; or NAME_true.mp4 beside NAME.mp4
WANTED = "NAME_poses.npy (or poses.npy, transforms.json, images.txt, a TUM or KITTI table in its folder) or NAME_actions.npy"


def suits(root: Path) -> bool:
    return True


def clips(root: Path, truth: Path | None, reading: Reading) -> Sequence[Clip]:
    """Every video below `root`, and every folder of poses that has none. truth: a folder laid out alike, with true films."""
    found = []
    for folder in folders_below(root):
        place = folder.relative_to(root)
        if place.name in ("frames", "images") or "sparse" in place.parts:
            continue
        films = [f for f in films_in(folder) if not _is_true(f)]
        for film in films:
            alone = len(films) == 1
            name = place if alone and place.parts else place / film.stem
            true = _true_film(folder, film, alone) or (_true_film(truth / place, film, alone, True) if truth else None)
            deeper = tuple(p for p in sorted((folder / "sparse").rglob("*")) if p.is_file()) if alone else ()  # COLMAP's
            found.append(Clip(name.as_posix(), film, partial(read_track, folder, film.stem, alone, reading), true, inputs=deeper))
        if not films and find_cameras(folder):
            found.append(Clip(place.as_posix() if place.parts else root.resolve().name, None, partial(read_track, folder, "", True, reading)))
    return found


def read_track(folder: Path, stem: str, alone: bool, reading: Reading, size: tuple[int, int]) -> Track:
    """The path of a video. alone: whether it is the only one of its folder, whose files then belong to it. size: the video's rows and columns."""
    cameras = _own_cameras(folder, stem)
    if cameras is None and alone and find_cameras(folder):
        cameras = read_cameras(folder)
    if cameras is None:
        files = [p for p in (folder / f"{stem}_actions.npy", *([folder / "actions.npy"] if alone else [])) if p.is_file()]
        if not files:
            raise FileNotFoundError(f"{folder / stem}: no poses and no actions of this video; expected {WANTED}")
        return Track(files[0], integrate(_actions(files[0]), reading.step))
    c2w = cameras.opencv(reading.convention, reading.direction)
    shares, size = None, reading.size or size
    if own := [p for p in (folder / f"{stem}_intrinsics.npy",) if p.is_file()] or (named(folder, "intrinsics") if alone else []):
        shares = check_intrinsics(read_array(own[0]), own[0], len(c2w), size, (1, 1))
    else:
        shares = cameras.lens(len(c2w), size, (1, 1))
    times = cameras.times
    fps = (len(times) - 1) / (times[-1] - times[0]) if times is not None and len(times) > 1 and times[-1] > times[0] else None
    return Track(cameras.file, c2w, shares, fps)


def _own_cameras(folder: Path, stem: str) -> Cameras | None:
    """Of the files that are called as the video is."""
    from harness.worlds.formats import arrays

    for name in (f"{stem}_poses.npy", f"{stem}_poses.npz", f"{stem}.npz"):
        if (folder / name).is_file():
            return arrays.read(folder / name)
    for suffix in (".txt", ".tum", ".kitti"):
        if (table := folder / f"{stem}{suffix}").is_file() and is_table(table):
            return read_table(table)
    return None


def _actions(file: Path) -> torch.Tensor:
    actions = read_array(file)
    if actions.ndim != 2 or actions.shape[1] != 6 or not np.isfinite(actions).all():
        raise ValueError(f"{file}: actions are {actions.shape}, expected (F, 6) finite numbers: W S A D yaw pitch")
    return torch.from_numpy(actions.astype(np.float64)).float()


def _is_true(film: Path) -> bool:
    return film.stem.lower() in TRUE or film.stem.lower().endswith(tuple(f"_{t}" for t in TRUE))


def _true_film(folder: Path, film: Path, alone: bool, other: bool = False) -> Path | None:
    """other: in a folder of true films, which may be called as the video itself."""
    if not folder.is_dir():
        return None
    names = [f"{film.stem}_{t}" for t in TRUE] + (list(TRUE) if alone else []) + ([film.stem] if other else [])
    films = [folder / f"{name}{suffix}" for name in names for suffix in (*FILMS, ".npy", "")]
    there = [p for p in films if p.is_file() or (p.is_dir() and p != folder)]
    return there[0] if there else None
