"""Approximate nearest neighbours by sign random projections: rows that fall into one bucket are neighbours."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.datatypes import Geometry
from harness.settings.ranges import Ge, Le, Seed
from policies.parts.concatenated import own_channels


@lru_cache(8)  # the same for every layer, pass and block of queries
def _planes(width: int, count: int, seed: int, device: torch.device) -> Float[Tensor, "d p"]:
    return torch.randn(width, count, generator=torch.Generator().manual_seed(seed)).to(device)


@dataclass(frozen=True)
class Hashing:
    """`tables` hash tables of `bits` random hyperplanes each (Charikar 2002). With bits=0 there is one bucket: exact search.

    Two vectors at angle a share a bucket of one table with probability (1 - a/pi)^bits. What shares no bucket is left out by
    a mask, on the full matrix of similarities: at the sizes of this project that is faster than walking buckets.
    """

    bits: Annotated[int, Ge(0), Le(62)] = 8
    tables: Annotated[int, Ge(1), Le(256)] = 4
    seed: Seed = 0

    def sides(self, x: Float[Tensor, "*g n d"], over: Geometry | None = None) -> Bool[Tensor, "*g n t b"]:
        """On which side of every hyperplane a row lies; the share of equal sides falls linearly with the angle. over: of a network whose heads
        are concatenated in a row, this rank's of them."""
        width = x.shape[-1] if over is None else (over.model_heads or over.heads) * over.head_dim
        planes = _planes(width, self.tables * self.bits, self.seed, x.device)
        along = x.float() @ planes if over is None else over.ranks.sum(x.float() @ own_channels(planes, x.shape[-1], over.ranks))
        return (along > 0).unflatten(-1, (self.tables, self.bits))

    def codes(self, x: Float[Tensor, "*g n d"], over: Geometry | None = None) -> Int[Tensor, "*g n t"]:
        """The bucket of every row in every table."""
        return (self.sides(x, over) * 2 ** torch.arange(self.bits, device=x.device)).sum(-1)

    @staticmethod
    def neighbours(a: Int[Tensor, "*g m t"], b: Int[Tensor, "*g n t"]) -> Bool[Tensor, "*g m n"]:
        """Which rows share a bucket in at least one table; table by table, so that scratch stays at one matrix."""
        near = torch.zeros(*a.shape[:-1], b.shape[-2], dtype=torch.bool, device=a.device)
        for table in range(a.shape[-1]):
            near |= a[..., :, None, table] == b[..., None, :, table]
        return near
