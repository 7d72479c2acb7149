"""TempCache: rows that stand for one another over time become one."""

from dataclasses import dataclass, field, replace
from math import floor, inf
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Ge, Gt, Limit, Natural
from policies.parts.concatenated import unit
from policies.parts.members import Members, nearest
from policies.wrappers.ann import Hashing


@dataclass
class TempCachePolicy(CachePolicy):
    """TempCache of FAST-AR (arXiv 2602.01801): the past beyond sink and recent is a set of representatives; memory grows with
    what is new, not with time.

    A frame that leaves the recent window is matched row by row: the representative with the greatest cosine among those in
    the same hash bucket, if it is at least `threshold`, takes the row in; other rows become representatives. A group of m
    rows is attended to with logit q.k + log m and the mean of its values, which is exact where its keys are equal.

    representative: `newest` (the key and position of the last row that joined; of one frame's rows, the most similar) or
    `mean` (the members' mean key, at the newest position). joint: match the heads of a layer together, or each for itself.
    limit: representatives a head may hold, in frames' worth; beyond it the lightest go, of equals the oldest. A frame is then
    unreachable once none of its rows is in a group any more in most layers and heads.

    Uncertain, since no code is public: summaries look up each token's *query* among the last frame's keys, here its key is
    looked up among all representatives, un-rotated (rotated keys confuse time with content); the paper's thresholds, bits and
    tables are not known; whether log m is used at inference or only explains the method.
    """

    sink: Natural = 3
    recent: Natural = 3
    threshold: Annotated[float, Ge(-1)] = 0.98
    representative: Literal["newest", "mean"] = "newest"
    joint: bool = True
    limit: Annotated[Limit, Gt(0)] = inf
    hashing: Hashing = field(default_factory=Hashing)

    def reset(self, geometry: Geometry) -> None:
        if self.limit * geometry.tokens < 1:
            raise ValueError(f"tempcache: limit={self.limit} frames; give at least one representative, 1/{geometry.tokens} (inf for no limit)")
        self._most = self.limit if self.limit == inf else floor(round(self.limit * geometry.tokens, 6))
        if not self.joint:
            geometry.check_alone("tempcache with joint=false")
        self._members, self._heads, self._geometry = Members(), geometry.heads, geometry
        self._members.reset()
        self.raw_keys, self.pooled, self.rewritable, self._next = True, True, False, self.sink

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames(bank.frames, candidates=set(range(self.sink, self._next)) - set(self._members.lost))

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        """The representatives live as one page, under the first frame after the sink."""
        bank.append(chunk, kv)
        while self._next <= chunk.frames[-1] - self.recent:
            if self._next > self.sink:
                bank.write(self.sink, self._take_in(bank.page(self.sink), bank.page(self._next)))
                bank.drop(self._next)
            elif self.limit < inf:
                first = bank.page(self.sink)
                self._members.join(self.sink, self._groups(torch.arange(first.rows, device=first.k.device).expand(len(first.k), -1)))
            self._next += 1

    def _take_in(self, pool: Page, new: Page) -> Page:
        """A frame's rows join representatives or become some. `g`: layers, or layers and heads."""
        there = torch.ones(pool.positions.shape[:2], dtype=torch.bool) if pool.mass is None else pool.mass.cpu() > 0
        there = self._groups(there).to(pool.k.device)
        per_layer = zip(new.k, pool.k, there.chunk(len(new.k)), strict=True)
        over = self._geometry if self.joint else None
        found = [nearest(self._directions(n), self._directions(p), t, self.hashing, over=over) for n, p, t in per_layer]
        best, target = (torch.cat(x) for x in zip(*found, strict=True))  # g s
        joins = best >= self.threshold
        target = torch.where(joins, target, there.sum(-1, keepdim=True) + (~joins).cumsum(-1) - 1)
        size = max(pool.rows, int(target.max()) + 1)
        own = torch.arange(pool.rows, device=target.device).expand(len(target), -1)
        order = best.argsort(dim=-1, stable=True)  # the most similar last: it lends its key
        rank = torch.full((len(target), size), -1, device=target.device).scatter_reduce(-1, target, order.argsort(-1), "amax")
        lender = pool.rows + order.gather(-1, rank.clamp(min=0))
        rows = self._layers(torch.where(rank >= 0, lender, F.pad(own, (0, size - pool.rows))))
        both, into = Page.joined([pool, new]), self._layers(torch.cat([own, target], -1))
        page = both.merge(rows, into)
        if self.representative == "mean":
            page = replace(page, k=replace(both, k=both.v, v=both.k).merge(rows, into).v)
        return page if self.limit == inf else self._limited(page, target)

    def _limited(self, page: Page, target: Int[Tensor, "g s"]) -> Page:
        """The heaviest representatives, and what the frames have lost by that."""
        self._members.join(self._next, target)
        if page.rows <= self._most:
            return page
        rows = _heaviest(page.mass, int(self._most))
        self._members.keep(self._groups(rows), page.rows)
        return page.keep(rows)

    def _groups(self, x: Shaped[Tensor, "l n *h"]) -> Shaped[Tensor, "g n"]:
        return x if self.joint else (x if x.dim() == 3 else x[..., None].expand(-1, -1, self._heads)).transpose(1, 2).flatten(0, 1)

    def _layers(self, x: Int[Tensor, "g n"]) -> Int[Tensor, "l n *h"]:
        return x if self.joint else x.unflatten(0, (-1, self._heads)).transpose(1, 2)

    def _directions(self, k: Float[Tensor, "1 n h d"]) -> Float[Tensor, "g n c"]:
        rows = k[0].float()
        return unit(rows.flatten(1)[None], self._geometry.ranks) if self.joint else F.normalize(rows.transpose(0, 1), dim=-1)


def _heaviest(mass: Float[Tensor, "l n *h"], count: int) -> Int[Tensor, "l c *h"]:
    """The `count` rows of greatest mass, of equals the newest, in rising order."""
    newest_first = mass.flip(1).argsort(dim=1, descending=True, stable=True)[:, :count]
    return (mass.shape[1] - 1 - newest_first).sort(1).values
