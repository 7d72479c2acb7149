"""A compressor says which rows of a chunk are stored; the rest is dropped when the chunk leaves the recent window."""

from abc import ABC, abstractmethod
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry, Site

Kept = list[tuple[tuple[int, ...], Int[Tensor, "l n"]]]  # (frames, rows to keep of their concatenated rows)
Into = list[Int[Tensor, "l m"]]  # for each entry of Kept: which kept row each of the concatenated rows is merged into


class Compressor(ABC):
    joint: bool = False  # whether `keep` chooses among the rows of several frames together; known after `reset`
    needs_attention_scores: bool = False  # whether it reads the attention calls that pass by; known after `reset`

    def reset(self, geometry: Geometry) -> None:
        """Check the fields; forget everything."""

    def look(self, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], site: Site) -> None:
        """Rotated queries and keys of an attention call pass by."""

    @abstractmethod
    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        """Frames that change, each with the rows to keep (in rising order; -1 for what a layer keeps less than others); frames that are not named stay whole.

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


def share_of(ratio: float, tokens: int) -> int:
    """That share of a frame's tokens, rounded up; what only a float's last digits add is no token."""
    return ceil(round(ratio * tokens, 6))


def lowest(score: Float[Tensor, "l n"], counts: list[int]) -> Int[Tensor, "l c"]:
    """Indices of each layer's `counts` lowest scores, in rising order, -1 first in layers that keep less; ties by index."""
    rank = torch.argsort(torch.argsort(score, dim=1, stable=True), dim=1)
    return rows_of(rank < torch.tensor(counts, device=rank.device)[:, None])


def rows_of(stays: Bool[Tensor, "l n"]) -> Int[Tensor, "l c"]:
    """Where `stays` is true in each layer, in rising order, -1 first in layers where it is less often."""
    at = torch.arange(stays.shape[1], device=stays.device).masked_fill(~stays, -1)
    return at.sort(1).values[:, stays.shape[1] - int(stays.sum(1).max()) :]
