"""A pool of tokens between the sink and the recent frames, under one fixed budget."""

from dataclasses import dataclass
from math import ceil, floor, inf, isfinite
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import KV, Chunk, Geometry, Plan, Site
from harness.policy import CachePolicy
from harness.settings.ranges import Limit, Natural
from policies.parts.pool import best_rows, contiguous, sources
from policies.parts.score.base import Scorer
from policies.parts.split.base import Split


@dataclass
class TokenBudgetPolicy(CachePolicy):
    """sink frames, at most `budget` frame-equivalents of tokens in between, recent frames.

    A chunk that leaves the recent window joins the pool, one page from the first overflow on: the scorer says what every row
    is worth, `split` how many each layer keeps (`budget` is the average), and the best stay, in temporal order, ties to the
    older. Scorers that do not drop rows (Quest) leave the pool in the bank, frame by frame, and the plan takes the best of it.
    per_head: every head keeps its own rows, as in all sources; else scores are averaged over heads. A frame is unreachable
    once most heads hold none of its rows. realign: `none` (rows stay at their own times), `sink` (it ends where the pool would
    begin if the window were contiguous: Deep Forcing's re-alignment) or `all` (the pool too is re-numbered contiguously);
    both need un-rotated keys. H2O has no sink and halves its cache with the recent tokens: sink=0 recent=6 is its nearest.
    """

    scorer: Scorer
    split: Split
    sink: Natural = 3
    recent: Natural = 3
    budget: Limit = 9
    per_head: bool = True
    realign: Literal["none", "sink", "all"] = "none"

    def reset(self, geometry: Geometry) -> None:
        if self.realign == "all" and not self.scorer.drops:
            raise ValueError("token_budget: realign=all re-numbers rows that stay; this scorer drops none, use realign=sink")
        self.scorer.reset(geometry)
        self.split.reset(geometry)
        if self.realign != "none" and self.scorer.rotated_keys:
            raise ValueError(f"token_budget: realign={self.realign} keeps keys un-rotated, and this scorer needs them rotated; use realign=none")
        self.raw_keys, self.rotated_keys = self.scorer.raw_keys or self.realign != "none", self.scorer.rotated_keys
        self.pooled, self.probes, self.rehearses = True, self.scorer.probes, self.scorer.rehearses
        self.needs_attention_scores, self._geometry, self._reachable = True, geometry, frozenset()
        self._born: dict[int, Tensor] = {}  # page -> l n h, of which frame each row is; -1: absent
        self._budget = floor(round(self.budget * geometry.tokens, 6)) if isfinite(self.budget) else inf

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        pool, rows, pools = self._pool(chunk.start, bank), {}, {}
        reachable = self._reachable if self.scorer.drops else frozenset(pool if self._budget else ())
        frames = bank.frames if self._budget and not chunk.probing else [f for f in bank.frames if f not in pool]
        if chunk.probing:
            pool = ()
        if not self.scorer.drops and sum(map(bank.rows, pool)) > self._budget > 0:
            used, best = sources(pool, [bank.rows(f) for f in pool], self._best(pool, bank), self._geometry)
            frames = [f for f in frames if f not in pool or f == used[0]]
            rows, pools, pool = {used[0]: best}, {used[0]: used}, used[:1]
        span = ceil(sum(rows[f].shape[1] if f in rows else bank.rows(f) for f in pool) / self._geometry.tokens)
        times = None if self.realign == "none" else contiguous(frames, pool, self.sink, self.recent, chunk.start, span, self.realign == "all")
        return Plan(tuple(frames), times, rows=rows, pools=pools, candidates=reachable)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if not site.cross:
            self.scorer.look(q, k, site)
            self.split.look(q, k, site)
        return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        self.scorer.observe(chunk, kv)
        if not self.scorer.drops:
            return
        shape = self._geometry.layers, self._geometry.tokens, self._geometry.heads
        self._born |= {f: torch.full(shape, f, device=self._geometry.device) for f in chunk.frames}
        pool = self._pool(chunk.frames[-1] + 1, bank)
        if sum(map(bank.rows, pool)) > self._budget:
            self._shrink(pool, bank)

    def _shrink(self, pool: tuple[int, ...], bank: KVBank) -> None:
        """Make one page of the pool, of the rows that stay."""
        g = self._geometry
        if self._budget == 0:
            for frame in pool:
                bank.drop(frame)
                self._born.pop(frame)
                self.scorer.keep((frame,), torch.zeros(g.layers, 0, g.heads, dtype=torch.long, device=g.device))
            return
        rows = self._best(pool, bank)
        page = Page.joined([bank.page(f) for f in pool]).keep(rows)
        if self.realign == "all":
            page.positions[..., 0] = pool[0] + (torch.arange(page.rows, device=page.positions.device) // g.tokens).view(-1, *[1] * (rows.dim() - 2))
        each = rows if rows.dim() == 3 else rows[..., None].expand(-1, -1, g.heads)
        self._born[pool[0]] = born = torch.cat([self._born.pop(f) for f in pool], 1).gather(1, each.clamp(min=0)).masked_fill(each < 0, -1)
        self.scorer.keep(pool, each)
        for frame in pool[1:]:
            bank.drop(frame)
        bank.write(pool[0], page)
        holders = born.new_zeros(g.layers, pool[-1] + 2, g.heads).scatter_(1, born + 1, 1)[:, 1:].sum(0)  # frame h: layers that hold a row
        most = 2 * g.sum_over_heads(holders, 1) >= g.layers * (g.model_heads or g.heads)
        self._reachable = frozenset(most.nonzero()[:, 0].tolist())

    def _pool(self, start: int, bank: KVBank) -> tuple[int, ...]:
        return tuple(f for f in bank.frames if self.sink <= f < start - self.recent)

    def _best(self, pool: tuple[int, ...], bank: KVBank) -> Int[Tensor, "l n *h"]:
        """The rows of the pool that each layer and head can afford."""
        score = self.scorer.score(pool, bank)
        caps = [score.shape[1] * self.scorer.run] * len(score)
        if self.scorer.drops:
            born = torch.cat([self._born[f] for f in pool], 1)
            score, caps = score.to(born.device).masked_fill(born < 0, -inf), (born >= 0).sum(1).amin(1).tolist()
        return best_rows(score, self.split.counts(int(self._budget), caps), self.per_head, self._geometry, self.scorer.run)
