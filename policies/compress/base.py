"""A compressor says which rows of a chunk are stored; the rest is dropped when the chunk leaves the recent window."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.types import KV, Chunk, Geometry

Kept = list[tuple[tuple[int, ...], Int[Tensor, "l n"]]]  # (frames, rows to keep of their concatenated rows)
Into = list[Int[Tensor, "l m"]]  # for each entry of Kept: which kept row each of the concatenated rows is merged into


class Compressor(ABC):
    joint: bool = False  # whether `keep` chooses among the rows of several frames together; known after `reset`

    def reset(self, geometry: Geometry) -> None:
        """Check the fields; forget everything."""

    @abstractmethod
    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        """Frames that change, each with the rows to keep (in rising order); frames that are not named stay whole.

        slot: the chunk's place in the order of retrieval, where that decides (`slots` different answers).
        """

    def into(self, chunk: Chunk, kv: KV, kept: Kept) -> Into | None:
        """Where the rows that are not kept go; None drops them."""
        return None

    @property
    def slots(self) -> int:
        """In how many ways `keep` answers: 1 unless it depends on the order of retrieval."""
        return 1


class KeepAll(Compressor):
    """Chunks are stored whole."""

    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        return []


def lowest(score: Float[Tensor, "l n"], count: int) -> Int[Tensor, "l c"]:
    """Indices of the `count` lowest scores of each layer, in rising order; ties by index."""
    return torch.argsort(score, dim=1, stable=True)[:, :count].sort(1).values
