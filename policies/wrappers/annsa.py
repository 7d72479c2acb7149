"""AnnSA: self-attention only to the rows that lie near a block of queries."""

from dataclasses import dataclass, field
from math import ceil

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.cache.attention import dense
from harness.datatypes import Geometry, Site
from harness.policy import CachePolicy, PolicyWrapper
from policies.wrappers.ann import Hashing


@dataclass
class AnnSaPolicy(PolicyWrapper):
    """AnnSA of FAST-AR (arXiv 2602.01801), around any plan: each block of `block` queries attends to the share `density` of
    the window that is nearest to its mean query, and to the chunk itself. Nearness is the number of equal hash bits over all
    tables, of un-centred queries and of keys minus their mean (which changes no softmax); heads are taken together.

    density: 1 is dense. None attends to what shares a bucket with the mean query in at least one table, however much that
    is. The window, its memory and the count of attended tokens stay the inner policy's: this saves time, not memory.

    Uncertain: the paper's tables, bits and densities are not known (about 30 % of the attention entries are said to keep more
    than 85 % of its mass), nor whether it hashes single queries or blocks, heads apart or together. Where a plan shows heads
    different rows, attention stays as the plan has it.
    """

    inner: CachePolicy
    density: float | None = 0.5
    block: int = 64
    hashing: Hashing = field(default_factory=lambda: Hashing(bits=16, tables=4))

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if self.density is not None and not 0 < self.density <= 1:
            raise ValueError(f"annsa: density={self.density}; give more than 0 and at most 1, or null for the hash buckets alone")
        if self.block < 1:
            raise ValueError(f"annsa: block={self.block} queries; give 1 or more")
        if self.needs_attention_scores:
            raise ValueError(f"annsa: {type(self.inner).__name__} keeps scores of whole attention calls, which this would cut short; wrap another policy")
        self._sides: dict[int, tuple[tuple[int, bool], Tensor]] = {}  # layer -> chunk, hash bits of its context's keys

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        n = site.context_rows
        if site.cross or site.groups or n == 0 or self.density == 1:
            return super().attend(q, k, v, site)
        sides = self._context(k[:, :n], site)
        own = torch.arange(n, k.shape[1], device=k.device)
        out = []
        for block in q.split(self.block, 1):
            rows = torch.cat([self._near(block, sides), own])
            bias = None if site.bias is None else site.bias[..., rows]
            out.append(dense(block, k[:, rows], v[:, rows], bias))
        return torch.cat(out, 1)

    def _context(self, k: Float[Tensor, "b n h d"], site: Site) -> Bool[Tensor, "n t b"]:
        """Hash bits of the context's keys, once a chunk: its passes share them."""
        if site.layer not in self._sides or self._sides[site.layer][0] != (site.chunk, site.probe):
            keys = k[0].flatten(1)
            self._sides[site.layer] = (site.chunk, site.probe), self.hashing.sides(keys - keys.mean(0))
        return self._sides[site.layer][1]

    def _near(self, q: Float[Tensor, "b m h d"], sides: Bool[Tensor, "n t b"]) -> Int[Tensor, "r"]:
        equal = self.hashing.sides(q[0].flatten(1).mean(0)[None]) == sides
        if self.density is None:
            return equal.all(-1).any(-1).nonzero()[:, 0]
        count = ceil(self.density * len(sides))
        return equal.sum((1, 2)).argsort(descending=True, stable=True)[:count].sort().values
