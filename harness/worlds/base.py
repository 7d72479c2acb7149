"""What the harness asks of a world: trajectories, by index, each a pure function of the settings."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from harness.settings.ranges import Ge, Gt, Le
from harness.system.meters import free_bytes
from harness.trajectory import Trajectory
from harness.worlds.ground import Ground
from harness.worlds.revisits import outbound

BYTES_PX = 24  # three colours in float32, of a generated and of a true view
PROTOCOLS = ("guided", "free")
Protocol = Literal["guided", "free"]
Split = Literal["train", "validation", "test"]
Trajectories = Annotated[int, Ge(1), Le(100_000)]
Step = Annotated[float, Ge(0), Le(1000)]  # metres a frame
Turn = Annotated[float, Gt(0), Le(180)]  # degrees a frame
Held = Annotated[int, Ge(0), Le(100_000)]  # frames
ChunkPx = Annotated[int, Ge(1), Le(1000)]  # video frames


def refuse_too_large(frames: int, size: Sequence[int], shorter: str) -> None:
    """Raise ValueError, with the numbers, for a trajectory whose true and generated views the memory at hand cannot hold.

    shorter: the settings that make it shorter.
    """
    need, free = frames * size[0] * size[1] * BYTES_PX, free_bytes(torch.device("cpu"))
    if free is not None and need > free:
        raise ValueError(
            f"world.size={list(size)}: {frames:,} video frames of {size[0]}x{size[1]} pixels take {need / 1e9:,.1f} GB ({BYTES_PX} bytes a pixel), "
            f"and {free / 1e9:,.1f} GB of memory are free; use a smaller world.size or {shorter}"
        )


class World(ABC):
    """A set of trajectories. `trajectory(i)` may be called in any order, in any process. changes: share of what was seen that becomes other on the way."""

    changes: float = 0.0

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """One name a trajectory; noise and result files are keyed by it."""

    @abstractmethod
    def trajectory(self, index: int) -> Trajectory: ...

    @property
    def changing(self) -> bool:
        """Whether things change along a trajectory: what an earlier view showed need not be what is there now."""
        return self.changes > 0

    def about(self) -> Sequence[str]:
        """Lines that tell people what was read, where a world reads files: printed before its trajectories run."""
        return ()

    def ground(self, index: int) -> Ground | None:
        """Where a trajectory lies, for whoever leaves its path; None where the world has no truth beyond it."""
        return None


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError where two trajectories share a name: noise and result files are keyed by it, so one would be lost."""
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(f"several trajectories are called {', '.join(twice[:5])}; rename a folder or file: results and noise are found by this name")


def given_frames(c2w: Float[Tensor, "p 4 4"], protocol: str, chunk_px: int, leg: int | None = None) -> int:
    """How many video frames are clean context: one chunk (`free`), or the outbound leg (of `leg` frames, where it is known) in whole chunks (`guided`)."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol {protocol!r}; use one of {', '.join(PROTOCOLS)}")
    if protocol == "free":
        return chunk_px
    leg = outbound(c2w) if leg is None else leg
    return max(chunk_px, min(leg, len(c2w) - chunk_px) // chunk_px * chunk_px)
