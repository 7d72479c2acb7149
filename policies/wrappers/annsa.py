"""AnnSA: self-attention only to the rows that lie near a block of queries."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.cache.attention import dense
from harness.datatypes import Geometry, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Gt, Le, Natural
from policies.parts.compress.base import share_of
from policies.wrappers.ann import Hashing


@dataclass
class AnnSaPolicy(PolicyWrapper):
    """AnnSA of FAST-AR (arXiv 2602.01801), around any plan: each block of `block` queries (0: a latent frame's) attends to the share
    `density` of the window that is nearest to its mean query, and to the chunk itself. Nearness is the number of equal hash bits
    over all tables, of un-centred queries and of keys minus their mean (which changes no softmax); heads that see the same rows are
    taken together. Where a plan shows heads different rows, the share is of what they see.

    density: 1 is dense. None attends to what shares a bucket with the mean query in at least one table, however much that
    is. The window, its memory and the count of attended tokens stay the inner policy's: this saves time, not memory. Measured
    on one core of an EPYC at a Matrix-Game-2.0 layer's size (2,640 queries, 15,840 rows, heads of 128), blocks of a frame: 0.6 of the
    dense time at density 0.5. Blocks of 64 queries gather rows so often that they take 1.3 of it,
    and with the 64 rows a frame of the embedded model nothing is saved (1.0 to 1.4 of the dense time at 7,000 rows).
    Not done: a kernel with a block mask (FlexAttention) and measurements on a GPU, where gathering may cost more.

    Uncertain: the paper's tables, bits and densities are not known (about 30 % of the attention entries are said to keep more
    than 85 % of its mass), nor whether it hashes single queries or blocks, heads apart or together.
    """

    inner: CachePolicy
    density: Annotated[float, Gt(0), Le(1)] | None = 0.5
    block: Natural = 0
    hashing: Hashing = field(default_factory=lambda: Hashing(bits=16, tables=4))

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        geometry.check_alone("annsa")
        if self.needs_attention_scores:
            raise ValueError(f"annsa: {type(self.inner).__name__} keeps scores of whole attention calls, which this would cut short; wrap another policy")
        if self.tries:
            raise ValueError(f"annsa: {type(self.inner).__name__} tries windows before it plans, and hash bits are those of one window; wrap another policy")
        self._size, self._tokens, self._now = geometry.chunk, geometry.tokens, (-1, False)
        self._sides: dict[tuple[int, int], Tensor] = {}  # layer, group of heads -> hash bits of the context's keys in this chunk

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if site.cross or site.context_rows == 0 or self.density == 1:
            return super().attend(q, k, v, site)
        own = self._own(k.shape[1], site).to(k.device)
        if not site.groups:
            return self._sparse(q, k, v, own, site.bias, site, 0)
        out = torch.empty_like(q)
        for i, (heads, rows) in enumerate(site.groups):
            bias = None if site.bias is None else site.bias[..., rows] if site.bias.dim() == 1 else site.bias[heads][:, rows]
            keys, values = (x.index_select(1, rows).index_select(2, heads) for x in (k, v))
            out[:, :, heads] = self._sparse(q[:, :, heads], keys, values, own[rows], bias, site, i)
        return out

    def _own(self, rows: int, site: Site) -> Bool[Tensor, "n"]:
        """Which rows are the chunk's own; they need not be the last."""
        own = torch.arange(rows) >= site.context_rows
        if site.slots:
            own[:] = False
            for frame, at in site.slots.items():
                if frame >= site.chunk * self._size:
                    own[torch.from_numpy(at)] = True
        return own

    def _sparse(self, q: Tensor, k: Tensor, v: Tensor, own: Tensor, bias: Tensor | None, site: Site, group: int) -> Tensor:
        """Attention of heads that see the same rows."""
        past, always = (~own).nonzero()[:, 0], own.nonzero()[:, 0]
        if not len(past):
            return dense(q, k, v, bias)
        sides, out = self._sides_of(k, past, site, group), []
        for block in q.split(self.block or self._tokens, 1):
            rows = torch.cat([past[self._near(block, sides)], always])
            out.append(dense(block, k.index_select(1, rows), v.index_select(1, rows), None if bias is None else bias[..., rows]))
        return torch.cat(out, 1)

    def _sides_of(self, k: Float[Tensor, "b n h d"], past: Tensor, site: Site, group: int) -> Bool[Tensor, "n t b"]:
        """Hash bits of the context's keys, once a chunk: its passes share them."""
        now = (site.chunk, site.probe)
        if self._now != now:
            self._now, self._sides = now, {}
        if (site.layer, group) not in self._sides:
            keys = k[0].index_select(0, past).flatten(1)
            self._sides[site.layer, group] = self.hashing.sides(keys - keys.mean(0))
        return self._sides[site.layer, group]

    def _near(self, q: Float[Tensor, "b m h d"], sides: Bool[Tensor, "n t b"]) -> Int[Tensor, "r"]:
        equal = self.hashing.sides(q[0].flatten(1).mean(0)[None]) == sides
        if self.density is None:
            return equal.all(-1).any(-1).nonzero()[:, 0]
        count = share_of(self.density, len(sides))
        return equal.sum((1, 2)).argsort(descending=True, stable=True)[:count].sort().values
