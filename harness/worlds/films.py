"""Frames of videos: a film file, a folder of pictures or an array, at the size that is asked for."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.system.files import visible
from harness.worlds.formats.arrays import read_array
from harness.worlds.pictures import pictures_in, read_image, resize

FILMS = (".mp4", ".webm", ".mov", ".mkv", ".avi", ".m4v")
SAME_SHAPE = 0.02  # largest difference of two pictures' width over height that may be scaled onto one another


class Film(NamedTuple):
    """fps: None where the file does not say (pictures, arrays). shape: rows and columns in the file."""

    frames: Float[Tensor, "n 3 y x"]
    fps: float | None
    shape: tuple[int, int]


def films_in(folder: Path) -> list[Path]:
    """Film files of a folder; frames.npy or video.npy; a folder frames/ of pictures."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in FILMS and p.is_file() and visible(p))
    found += [p for name in ("frames.npy", "video.npy") if (p := folder / name).is_file()]
    return found + [p for p in (folder / "frames",) if p.is_dir() and pictures_in(p)]


def read_film(path: Path, size: tuple[int, int] | None = None) -> Film:
    """All frames in [0, 1]. size: (rows, columns) to scale them to; None keeps their own.

    Raises ValueError that names a file that cannot be read, that is empty or that has frames of several sizes.
    """
    fps, parts, shape = None, [], None
    if path.is_dir():
        pictures: Iterator[Tensor] = (read_image(p) for p in sorted(pictures_in(path), key=lambda p: (len(p.stem), p.stem)))
    elif path.suffix == ".npy":
        array = read_array(path)
        if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(f"{path} is {array.dtype} {array.shape}, expected uint8 (F, y, x, 3)")
        pictures = (torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float() / 255 for frame in array)
    else:
        fps, pictures = _decoded(path)
    for picture in pictures:
        if shape is not None and picture.shape != shape:
            raise ValueError(f"{path}: frame {len(parts)} is {tuple(picture.shape[-2:])} pixels, the first one {tuple(shape[-2:])}")
        shape = picture.shape
        parts.append(resize(picture, size) if size else picture)
    if shape is None:
        raise ValueError(f"{path} has no frames")
    return Film(torch.cat(parts), fps, (shape[-2], shape[-1]))


def same_shape(mine: tuple[int, int], other: tuple[int, int], what: str) -> None:
    """Raises ValueError where pictures of one size would be distorted at the other."""
    if abs(mine[1] / mine[0] - other[1] / other[0]) > SAME_SHAPE * other[1] / other[0]:
        raise ValueError(f"{what} is {other[0]} x {other[1]} pixels (rows x columns), the video {mine[0]} x {mine[1]}: crop one to the other's shape")


def _decoded(path: Path) -> tuple[float | None, Iterator[Tensor]]:
    import av  # FFmpeg takes a moment to load
    from av.error import FFmpegError

    def frames() -> Iterator[Tensor]:
        try:
            with av.open(str(path)) as container:
                for frame in container.decode(video=0):
                    yield torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)[None].float() / 255
        except (FFmpegError, IndexError, ValueError) as error:
            raise ValueError(f"{path} is damaged or no video ({error}); write it again") from error

    try:
        with av.open(str(path)) as container:
            rate = container.streams.video[0].average_rate
    except (FFmpegError, IndexError) as error:
        raise ValueError(f"{path} is damaged or no video ({error}); write it again") from error
    return float(Fraction(rate)) if rate else None, frames()
