"""transforms.json of nerfstudio and instant-ngp: camera-to-world matrices with OpenGL axes."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.worlds.formats.cameras import Cameras


def find(folder: Path) -> Sequence[Path]:
    return [p for p in (folder / "transforms.json",) if p.is_file()]


def read(file: Path) -> Cameras:
    """Frames in the order of their picture's names. Sizes and focal lengths stand at the top or, one a frame, in the frames."""
    try:
        about = json.loads(file.read_text(encoding="utf-8-sig"))
        frames = sorted(about["frames"], key=lambda frame: _order(str(frame.get("file_path", ""))))
        poses = np.array([np.array(frame["transform_matrix"], dtype=np.float64)[:3, :4] for frame in frames])
        intrinsics, size = _intrinsics(about, frames)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{file} is no transforms.json of nerfstudio or instant-ngp ({type(error).__name__}: {error}); it needs frames with transform_matrix"
        ) from error
    pictures = tuple(str(frame["file_path"]) for frame in frames if frame.get("file_path"))
    angle = about.get("camera_angle_x") if intrinsics is None else None
    if angle is not None and not (isinstance(angle, int | float) and 0 < angle < math.pi):
        raise ValueError(f"{file}: camera_angle_x={angle}; it is the horizontal field of view in radians, above 0 and below pi")
    width = math.degrees(angle) if angle is not None else None
    return Cameras(file, poses, "opengl", "c2w", intrinsics, size, pictures=pictures if len(pictures) == len(frames) else (), fov=width)


def _order(name: str) -> list[tuple[int, str]]:
    """frame_2 before frame_10."""
    parts, digits = [], ""
    for letter in name + "\0":
        if letter.isdigit():
            digits += letter
            continue
        if digits:
            parts.append((int(digits), ""))
            digits = ""
        parts.append((-1, letter))
    return parts


def _intrinsics(about: dict, frames: list[dict]) -> tuple[np.ndarray | None, tuple[int, int] | None]:
    rows, sizes = [], set()
    for frame in frames:
        said = {**about, **frame}
        width, height = said.get("w"), said.get("h")
        focal = said.get("fl_x")
        if focal is None and said.get("camera_angle_x") is not None:
            if width is None or height is None:  # only the angle is known: of a picture of any size
                return None, None
            focal = width / 2 / math.tan(said["camera_angle_x"] / 2)
        if focal is None:
            return None, None
        x, y = said.get("cx", width / 2 if width else None), said.get("cy", height / 2 if height else None)
        if x is None or y is None:
            raise KeyError("cx, cy or w, h")
        rows.append([focal, said.get("fl_y", focal), x, y])
        sizes.add((height or 2 * y, width or 2 * x))
    if len(sizes) > 1:
        raise ValueError(f"pictures of {len(sizes)} sizes")
    height, width = sizes.pop()
    return np.array(rows, dtype=np.float64), (round(height), round(width))
