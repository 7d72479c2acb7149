"""A rollout's task: where the camera goes, what is given, and which frames show a place again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Overlap(Protocol):
    """True co-visibility of views of video frames (rows) with views of others (columns), computed for the pairs that are asked for."""

    def __call__(self, rows: Sequence[int], columns: Sequence[int], /) -> Float[Tensor, "n m"]:
        """Share of each view that the other shows too."""
        ...

    def surface(self, rows: Sequence[int], columns: Sequence[int], /) -> Bool[Tensor, "n s m"]:
        """Which of the surface points that a view of `rows` shows each view of `columns` shows too."""
        ...

    def shown(self, views: Sequence[int], /) -> Float[Tensor, "n s 3"]:
        """Where the rays of each view, on a grid, meet surfaces: points of the world."""
        ...

    def depth(self, rows: Sequence[int], size: tuple[int, int], /) -> Float[Tensor, "n y x"]:
        """True depth along the optical axis of views, in metres, at the centres of `size` (rows, columns) pixels."""
        ...


@dataclass(frozen=True)
class RevisitPair:
    """Two video frames with the same view, which was left in between.

    gap_metres and gap_degrees: what the two poses really differ by. unrelated: the frame whose view differs most from
    `first`, for the floor.
    """

    first: int
    revisit: int
    unrelated: int
    gap_metres: float
    gap_degrees: float


@dataclass(frozen=True)
class Trajectory:
    """One rollout's task. Poses, actions and intrinsics are one per video frame; `images` are the frames that are given.

    The first `given` video frames are clean context, the rest is generated. reference: true frames, where the world has
    them. overlap: true co-visibility of some video frames' views with some others' (see `Chunk`), where the world has geometry.
    no_pairs: why there are no revisit pairs, where there are none.
    """

    name: str
    c2w: Float[Tensor, "p 4 4"]
    intrinsics: Float[Tensor, "p 4"]
    actions: Float[Tensor, "p 6"]
    images: Float[Tensor, "g 3 y x"]
    pairs: tuple[RevisitPair, ...]
    fps: float = 16.0
    prompt: str = ""
    metres: float = 0.0  # that a key moves the camera in a video frame; 0: unknown
    reference: Float[Tensor, "p 3 y x"] | None = None
    overlap: Overlap | None = None
    no_pairs: str = ""

    @property
    def given(self) -> int:
        return len(self.images)

    @staticmethod
    def start(images: Float[Tensor, "g 3 y x"], intrinsics: Float[Tensor, "4"], metres: float = 0.0, prompt: str = "", name: str = "session") -> "Trajectory":
        """The beginning of a path that nobody knows yet: the given images, seen from one pose, the origin."""
        count = len(images)
        return Trajectory(name, torch.eye(4).repeat(count, 1, 1), intrinsics.expand(count, 4), torch.zeros(count, 6), images, (), prompt=prompt, metres=metres)
