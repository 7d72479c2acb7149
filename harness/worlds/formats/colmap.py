"""COLMAP's text model: images.txt (world to camera, quaternions w x y z) with cameras.txt beside it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.worlds.formats.cameras import Cameras
from harness.worlds.text import read_text

PLACES = ("", "sparse/0", "sparse", "colmap/sparse/0")
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")  # f cx cy; the others have fx fy cx cy
TWO_FOCAL = ("PINHOLE", "OPENCV", "FULL_OPENCV", "OPENCV_FISHEYE", "THIN_PRISM_FISHEYE", "FOV")


def find(folder: Path) -> Sequence[Path]:
    """images.txt of a folder or of its sparse model. Raises ValueError for a model in COLMAP's binary form."""
    for place in PLACES:
        text = folder / place / "images.txt"
        if text.is_file() and (folder / place / "cameras.txt").is_file():
            return [text]
        if (binary := folder / place / "images.bin").is_file():
            raise ValueError(
                f"{binary} is COLMAP's binary form; write text: colmap model_converter --input_path {binary.parent} --output_path {folder} --output_type TXT"
            )
    return []


def read(file: Path) -> Cameras:
    """Views in the order of their picture's names."""
    lines = [line.strip() for line in read_text(file).splitlines() if not line.startswith("#")]
    while lines and not lines[0]:
        lines.pop(0)
    views = []
    for line in lines[::2]:  # every other line lists points, and may be empty
        if not line:
            continue
        parts = line.split(maxsplit=9)
        try:
            views.append((parts[9], parts[8], [float(x) for x in parts[1:8]]))
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{file}: cannot read {line[:60]!r}; expected IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, and a line of points after each"
            ) from error
    if not views:
        raise ValueError(f"{file} has no images")
    views.sort()
    poses = matrices(np.array([v[2] for v in views]), first_scalar=True, origin=file)
    cameras = _cameras(file.with_name("cameras.txt"))
    if unknown := {v[1] for v in views} - cameras.keys():
        raise ValueError(f"{file} names camera {', '.join(sorted(unknown))}, which {file.with_name('cameras.txt')} has not")
    if len({cameras[v[1]][1] for v in views}) > 1:
        raise ValueError(f"{file}: its pictures have several sizes; use one camera")
    size = cameras[views[0][1]][1]
    return Cameras(file, poses, "opencv", "w2c", np.array([cameras[v[1]][0] for v in views]), size, pictures=tuple(v[0] for v in views))


def matrices(rows: np.ndarray, first_scalar: bool, origin: Path) -> np.ndarray:
    """(F, 4, 4) of quaternion and place. first_scalar: w x y z then t (COLMAP); otherwise t then x y z w (TUM). Raises ValueError for a zero quaternion."""
    from scipy.spatial.transform import Rotation  # slow to import

    quaternion, place = (rows[:, [1, 2, 3, 0]], rows[:, 4:7]) if first_scalar else (rows[:, 3:7], rows[:, :3])
    norm = np.linalg.norm(quaternion, axis=1)
    if not np.isfinite(rows).all() or (np.abs(norm - 1) > 0.05).any():
        frame = int((~np.isfinite(rows).all(1) | ~(np.abs(norm - 1) <= 0.05)).argmax())
        raise ValueError(f"{origin}: the quaternion of frame {frame} has length {norm[frame]:.3g}, expected 1; check the order of its numbers")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = Rotation.from_quat(quaternion).as_matrix(), place
    return poses


def _cameras(file: Path) -> dict[str, tuple[list[float], tuple[int, int]]]:
    """fx fy cx cy and the size of every camera; its lens distortion is left out."""
    found = {}
    for line in read_text(file).splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            number, model, width, height, *numbers = line.split()
            values = [float(n) for n in numbers]
            if model not in (*ONE_FOCAL, *TWO_FOCAL):
                raise ValueError(f"the camera model {model}")
            found[number] = ([values[0], values[0], *values[1:3]] if model in ONE_FOCAL else values[:4], (int(height), int(width)))
        except ValueError as error:
            raise ValueError(f"{file}: cannot read {line[:60]!r} ({error}); expected CAMERA_ID MODEL WIDTH HEIGHT PARAMS") from error
    return found
