"""MIND (arXiv 2602.08025, github.com/CSU-JPG/MIND): VIEW/TEST/NAME/video.mp4 of a model, VIEW being 1st_data or 3rd_data; actions, poses and true videos in
the benchmark's data folder, VIEW/test/TEST/NAME/{action.json, video.mp4}. mirror_test/NAME/path-*.mp4 go out and the same way back."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from harness.system.files import visible
from harness.worlds.layouts.clip import Clip, Reading, Track
from harness.worlds.poses import rotation
from harness.worlds.text import read_text

VIEWS, TESTS, MIRROR = ("1st_data", "3rd_data"), ("mem_test", "action_space_test"), "mirror_test"
METRES = 0.01  # a unit of Unreal Engine


def suits(root: Path) -> bool:
    return any((root / view).is_dir() for view in VIEWS)


def clips(root: Path, truth: Path | None, reading: Reading) -> Sequence[Clip]:
    """Every video of the model; where the data are there, also those that it lacks. Without them only the mirror test can be scored."""
    found = []
    for view in VIEWS:
        for video in sorted((root / view / MIRROR).glob("*/*.mp4")):
            if visible(video, root):
                found.append(Clip(video.relative_to(root).with_suffix("").as_posix(), video, partial(_no_track, video), mirrored=True))
        for test in TESTS:
            made = {p.name for p in (root / view / test).glob("*") if p.is_dir() and visible(p)}
            data = truth / view / "test" / test if truth else None
            known = {p.name for p in data.glob("*") if p.is_dir() and visible(p)} if data else set()
            if made and data is None:
                raise ValueError(f"{root / view / test}: the poses of these videos are in the benchmark's data; give its folder: world.truth=MIND-Data")
            for name in sorted(made | (known if made else set())):
                video = root / view / test / name / "video.mp4"
                gt = (data or root) / name
                true = gt / "video.mp4"
                found.append(
                    Clip(
                        f"{view}/{test}/{name}",
                        video if video.is_file() else None,
                        partial(_track, gt / "action.json"),
                        true if true.is_file() else None,
                        inputs=(gt / "action.json",),
                    )
                )
    return found


def _no_track(video: Path, size: tuple[int, int]) -> Track:
    return Track(video, None)


def _about(file: Path) -> dict:
    try:
        about = json.loads(read_text(file))
        about |= {"mark_time": int(about["mark_time"]), "data": [dict(row) for row in about["data"]]}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{file} is no action.json of MIND ({type(error).__name__}: {error})") from error
    return about


def _track(file: Path, size: tuple[int, int]) -> Track:
    """Poses of the camera (third person) or of the actor (first person): Unreal's axes x forward, y right, z up; degrees of roll, pitch up and yaw right."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: it has the poses of this video")
    about = _about(file)
    rows = about["data"]
    if not rows:
        raise ValueError(f"{file} has no poses (data is empty)")
    who = "camera" if "camera_pos" in rows[0] else "actor"
    try:
        place, turn = (torch.tensor([[row[f"{who}_{what}"][axis] for axis in "xyz"] for row in rows], dtype=torch.float64) for what in ("pos", "rpy"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: frame without {who}_pos or {who}_rpy ({error})") from error
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(rows), 1, 1)
    roll = torch.deg2rad(turn[:, 0])
    zero, one = torch.zeros_like(roll), torch.ones_like(roll)
    tilt = torch.stack([roll.cos(), -roll.sin(), zero, roll.sin(), roll.cos(), zero, zero, zero, one], -1).unflatten(-1, (3, 3))
    c2w[:, :3, :3] = rotation(turn[:, 2], turn[:, 1]) @ tilt
    c2w[:, :3, 3] = torch.stack([place[:, 1], -place[:, 2], place[:, 0]], -1) * METRES
    return Track(file, c2w.float(), context=about["mark_time"])
