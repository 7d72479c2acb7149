"""Absolute positions, but none beyond what training has seen."""

from dataclasses import dataclass

from policies.parts.place.base import Placement


@dataclass
class Clamped(Placement):
    """Every frame keeps its own position unless it is farther back than the trained span; then it stands at the span's far end
    (Pyramid Forcing clamps stale positions into the 21 frames of its base model; retrieval there is not published).

    span: frames from the oldest position to the end of the chunk to come, both included.
    """

    span: int = 21
    moves = True
    by_similarity = False

    def __post_init__(self) -> None:
        if self.span < 1:
            raise ValueError(f"clamped placement: span={self.span} frames; give 1 or more")

    def times(self, sink: list[int], retrieved: list[list[int]], recent: list[int], start: int, size: int) -> tuple[float, ...]:
        oldest = start + size - self.span
        return tuple(float(max(f, oldest)) for f in [*sink, *(f for frames in retrieved for f in frames), *recent])
