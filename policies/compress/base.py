"""A compressor says which rows of a chunk are stored; the rest is dropped when the chunk leaves the recent window."""

from abc import ABC, abstractmethod

from jaxtyping import Int
from torch import Tensor

from harness.types import KV, Chunk, Geometry

Kept = list[tuple[tuple[int, ...], Int[Tensor, "l n"]]]  # (frames, rows to keep of their concatenated rows)


class Compressor(ABC):
    def reset(self, geometry: Geometry) -> None:
        """Check the fields; forget everything."""

    @abstractmethod
    def keep(self, chunk: Chunk, kv: KV) -> Kept:
        """Frames that change, each with the rows to keep (in rising order); frames that are not named stay whole."""


class KeepAll(Compressor):
    """Chunks are stored whole."""

    def keep(self, chunk: Chunk, kv: KV) -> Kept:
        return []
