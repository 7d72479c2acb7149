"""Frames of a known or unknown number, in memory that is taken once or rarely."""

import torch
from jaxtyping import Float
from torch import Tensor


class FrameBuffer:
    """Frames written as they come. Joining pieces at the end would take their memory twice, and a long rollout would seem to leak.

    length: how many there will be, where that is known; beyond it the buffer doubles.
    """

    def __init__(self, length: int) -> None:
        self._length, self._used = length, 0
        self._whole = torch.empty(0)
        self._before: Tensor | None = None  # of a fork: the frames of the other one until then

    def add(self, part: Float[Tensor, "n *any"]) -> None:
        end = self._used + len(part)
        if self._whole.dim() != part.dim() or end > len(self._whole):
            grown = torch.zeros(self._length if end <= self._length else max(end, 2 * len(self._whole)), *part.shape[1:], dtype=part.dtype)
            grown[: self._used] = self._whole[: self._used] if self._used else 0
            self._whole = grown
        self._whole[self._used : end] = part
        self._used = end

    @property
    def made(self) -> Tensor:
        own = self._whole[: self._used]
        if self._before is None:
            return own
        return torch.cat([self._before, own]) if self._used else self._before

    def fork(self) -> "FrameBuffer":
        """A buffer that goes on from here. Frames are only ever added, so both sides share those that are there."""
        twin = FrameBuffer(0)
        twin._before = self.made
        return twin
