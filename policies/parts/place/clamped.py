"""Absolute positions, but none farther back than a span of frames."""

from dataclasses import dataclass

from harness.settings.ranges import Count
from policies.parts.place.base import Placement


@dataclass
class Clamped(Placement):
    """Every frame keeps its own position unless it is farther back than `span`; then it stands at the span's far end
    (Pyramid Forcing clamps stale positions into the 21 frames of its base model; retrieval there is not published).

    span: frames from the oldest position to the end of the chunk to come, both included. The embedded model was trained on clips of up to 48 frames
    with holes between them, at times up to 120, so that 21 is less than it knows.
    """

    span: Count = 21
    moves = True
    rigid = False
    by_similarity = False

    def times(self, sink: list[int], retrieved: list[list[int]], recent: list[int], start: int, size: int) -> tuple[float, ...]:
        if self.span < size:
            raise ValueError(f"placement.span={self.span} is shorter than a chunk of {size} frames; use {size} or more")
        oldest = start + size - self.span
        return tuple(float(max(f, oldest)) for f in [*sink, *(f for frames in retrieved for f in frames), *recent])
