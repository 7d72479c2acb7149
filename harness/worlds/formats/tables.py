"""Poses as lines of numbers, told apart by how many a line has: TUM 8, KITTI 12, plain matrices 16, RealEstate10K 19."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.worlds.formats.cameras import SHARES, Cameras
from harness.worlds.formats.colmap import matrices
from harness.worlds.text import read_text

SUFFIXES = (".txt", ".tum", ".kitti", ".csv")
COLUMNS = (8, 12, 16, 19)
OTHERS = ("images.txt", "cameras.txt", "points3d.txt", "calib.txt", "times.txt", "timestamps.txt")
HEAD = 4096  # bytes that tell a table from a text


def find(folder: Path) -> Sequence[Path]:
    files = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file() and p.name.lower() not in OTHERS)
    return [p for p in files if is_table(p)]


def read(file: Path) -> Cameras:
    lines = _lines(read_text(file))
    try:
        rows = [[float(n) for n in line.replace(",", " ").split()] for line in lines]
    except ValueError as error:
        raise ValueError(f"{file}: {error}; expected a line of numbers a pose") from error
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or not lengths <= set(COLUMNS):
        odd = next(i for i, row in enumerate(rows) if len(row) != len(rows[0]) or len(row) not in COLUMNS)
        raise ValueError(f"{file}: pose {odd} has {len(rows[odd])} numbers; TUM has 8, KITTI 12, RealEstate10K 19")
    table = np.array(rows)
    if lengths & {8, 19} and (late := np.diff(table[:, 0]) <= 0).any():
        raise ValueError(
            f"{file}: pose {int(late.argmax()) + 1} is no later than the one before it (its first number is a time); sort the lines, and drop twins"
        )
    if lengths == {8}:  # time, place, quaternion x y z w
        return Cameras(file, matrices(table[:, 1:], False, file), times=table[:, 0])
    if lengths == {12}:
        return Cameras(file, table.reshape(-1, 3, 4), intrinsics=_kitti(file.with_name("calib.txt")))
    if lengths == {16}:
        return Cameras(file, table.reshape(-1, 4, 4))
    # time in microseconds, fx fy cx cy as shares of the picture, two numbers of distortion, world to camera
    return Cameras(file, table[:, 7:].reshape(-1, 3, 4), "opencv", "w2c", table[:, 1:5], SHARES, table[:, 0] / 1e6)


def is_table(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    whole = len(head) < HEAD
    lines = _lines(head.decode("latin-1").lstrip("\ufeff").removeprefix("ï»¿"))
    lines = lines if whole else lines[:-1]
    try:
        return bool(lines) and all(len([float(n) for n in line.replace(",", " ").split()]) in COLUMNS for line in lines)
    except ValueError:
        return False


def _lines(text: str) -> list[str]:
    """What is no comment; RealEstate10K's first line is a video's address."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith(("#", "http://", "https://"))]


def _kitti(calib: Path) -> np.ndarray | None:
    """fx fy cx cy of the left colour camera (P2), or of the first (P0)."""
    if not calib.is_file():
        return None
    found = dict(line.split(":", 1) for line in read_text(calib).splitlines() if ":" in line)
    for name in ("P2", "P_rect_02", "P0", "P_rect_00"):
        if name in found and len(numbers := found[name].split()) == 12:
            p = np.array(numbers, dtype=np.float64).reshape(3, 4)
            return np.array([[p[0, 0], p[1, 1], p[0, 2], p[1, 2]]])
    return None
