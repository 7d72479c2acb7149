"""A video of another system, and what is known of its path."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Track:
    """The path that a video was to follow. c2w: OpenCV camera to world; None where only the order of views is known. intrinsics: fx fy cx cy as
    shares of the picture, one row or one a pose; None: unknown. fps: poses a second, where the file tells. file: where it comes from. context: true
    frames before the first one that the system made."""

    file: Path
    c2w: Float[Tensor, "p 4 4"] | None
    intrinsics: Float[Tensor, "n 4"] | None = None
    fps: float | None = None
    context: int = 0


@dataclass(frozen=True)
class Clip:
    """name: unique. video: a film, a folder of pictures or an array; None where it is missing. track: reads the path, given the video's rows and
    columns; raises ValueError or OSError for what is missing of it. truth: the true film, a frame a pose. mirrored: the second half is to show
    the first one backwards. spread: poses are spread over the video's frames, first on first and last on last. inputs: files that the path is read from
    and that do not lie beside the video."""

    name: str
    video: Path | None
    track: Callable[[tuple[int, int]], Track]
    truth: Path | None = None
    mirrored: bool = False
    spread: bool = False
    inputs: tuple[Path, ...] = ()


class Reading(NamedTuple):
    """What settings say of files of poses, see `RecordedWorld`. size: of the picture that intrinsics in pixels are of, where the file does not say;
    None: the video's own. step: metres of a pressed key a frame, where actions are all there is."""

    convention: str | None = None
    direction: str | None = None
    size: tuple[int, int] | None = None
    step: float = 0.0416667
