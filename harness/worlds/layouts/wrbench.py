"""WRBench (github.com/JinPLu/WRBench): every X.mp4 has X.mp4.target_c2w.npy and X.mp4.camera_trajectory.json beside it; videos.json may list them."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from harness.system.files import visible
from harness.worlds.films import FILMS
from harness.worlds.formats.arrays import read_array
from harness.worlds.formats.cameras import SHARES, Cameras, check_intrinsics
from harness.worlds.layouts.clip import Clip, Reading, Track
from harness.worlds.text import read_text

POSES, TRAJECTORY = ".target_c2w.npy", ".camera_trajectory.json"


def suits(root: Path) -> bool:
    return any(visible(p, root) for p in root.rglob(f"*{POSES}"))


def clips(root: Path, truth: Path | None, reading: Reading) -> Sequence[Clip]:
    """The videos of videos.json, else every video below `root` and every path that has none."""
    manifest = root / "videos.json"
    if manifest.is_file():
        try:
            videos = [root / str(record["video_path"]) for record in json.loads(read_text(manifest))]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{manifest} is no list of records with video_path ({error})") from error
    else:
        videos = sorted(p for suffix in FILMS for p in root.rglob(f"*{suffix}") if visible(p, root))
        videos = sorted({*videos, *(p.with_name(p.name.removesuffix(POSES)) for p in root.rglob(f"*{POSES}") if visible(p, root))})
    return [Clip(_name(v, root), v if v.exists() else None, partial(_track, v), _truth(v, root, truth)) for v in videos]


def _name(video: Path, root: Path) -> str:
    return (video.relative_to(root) if video.is_relative_to(root) else Path(video.name)).with_suffix("").as_posix()


def _truth(video: Path, root: Path, truth: Path | None) -> Path | None:
    other = truth / f"{_name(video, root)}{video.suffix}" if truth else None
    return other if other and other.is_file() else None


def _track(video: Path, size: tuple[int, int]) -> Track:
    poses, about = (video.with_name(video.name + end) for end in (POSES, TRAJECTORY))
    said = {}
    if about.is_file():
        try:
            said = json.loads(read_text(about))
            said.get("c2w")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{about} is no camera trajectory of WRBench ({error})") from error
    if not poses.is_file() and "c2w" not in said:
        raise FileNotFoundError(f"{video}: neither {poses.name} nor {about.name} is beside it")
    file = poses if poses.is_file() else about
    c2w = Cameras(file, read_array(poses) if poses.is_file() else _numbers(said["c2w"], about, "the poses c2w"), upright=True).opencv()
    shares = None
    if said.get("intrinsics"):
        k = _numbers(said["intrinsics"], about, "intrinsics")  # about a principal point in the picture's middle, or shares of the picture
        if k.ndim != 3 or k.shape[1:] != (3, 3):
            raise ValueError(f"{about}: intrinsics have the shape {k.shape}; give one 3 x 3 matrix a pose")
        own = SHARES if k[0, 0, 2] <= 1 else (round(2 * k[0, 1, 2]), round(2 * k[0, 0, 2]))
        shares = check_intrinsics(k, about, len(c2w), own, (1, 1))
    return Track(file, c2w, shares, said.get("fps"))


def _numbers(said: object, about: Path, name: str) -> np.ndarray:
    try:
        return np.array(said, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{about}: {name} are no numbers, or no matrices of one size ({error})") from error
