"""The whole past, the coarser the older: rows of neighbouring places become one."""

from dataclasses import dataclass, replace
from math import floor, inf, pi
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Limit, Natural, Share


@dataclass
class PooledPolicy(CachePolicy):
    """RELIC (arXiv 2512.04040) and FramePack (arXiv 2504.12626) without their training: sink and recent frames whole; of older frames
    each block of 2x2 tokens is one row, of the oldest each block of 4x4. Nothing is selected: all that is remembered is attended to.

    A block's key and value are the means of its rows'; with `mass` the logit is raised by the logarithm of the number of rows,

        softmax(q.mean(k) + log m), values mean(v)

    which is what the m rows would give together if their keys were equal. keys: `rotated` (means of keys at their own positions, so
    that q.mean(k) is the mean of the rows' logits) or `raw` (means of keys before RoPE, rotated at the mean position: what a model
    that is given a downsampled image does; angles on both sides of a full turn average on one of them). budget: frame-equivalents of
    pooled rows; the share `fine` of it holds the newest frames at 2x2, the rest older ones at 4x4; frames beyond are dropped, and
    unreachable (inf: all frames at one size, 2x2 unless fine=0). Blocks at the grid's edge may be smaller.

    Uncertain: RELIC's factors (1, 2 and 4, interleaved over frames, about 4 times fewer tokens) are those of a summary. Simplified: both
    encode a downsampled latent and are trained for it, FramePack with kernels over time too (1x2x2, 2x4x4, 4x8x8); here cached rows
    are averaged, of each frame by itself. `trained_compressed` is this policy on weights that were trained
    for it, with raw keys, without a budget and with fine=1.
    """

    sink: Natural = 3
    recent: Natural = 3
    budget: Limit = 9
    fine: Share = 2 / 3
    keys: Literal["rotated", "raw"] = "rotated"
    mass: bool = True
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        if not geometry.columns:
            raise ValueError("pooled: this backbone does not say how a frame's tokens lie (geometry.columns=0), so none are neighbours; use another policy")
        self.raw_keys, self.rotated_keys = self.keys == "raw", self.keys == "rotated"
        self._blocks: list[Tensor] = []  # of each level: the block that every row of the level before falls into
        self._level: dict[int, int] = {}
        rows, columns = geometry.tokens // geometry.columns, geometry.columns
        for _ in range(2):
            self._blocks.append(blocks(rows, columns).to(geometry.device))
            rows, columns = -(-rows // 2), -(-columns // 2)
        sizes = [int(block.max()) + 1 for block in self._blocks]
        if self.budget == inf:
            self._most = (inf, 0) if self.fine else (0, inf)
            return
        total = floor(round(self.budget * geometry.tokens, 6))
        fine = floor(round(total * self.fine, 6)) // sizes[0]
        self._most = (fine, (total - fine * sizes[0]) // sizes[1] if self.fine < 1 else 0)

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames(bank.frames)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        old = [f for f in bank.frames if self.sink <= f <= chunk.frames[-1] - self.recent]
        for age, frame in enumerate(reversed(old)):
            if age >= sum(self._most):
                bank.drop(frame)
                self._level.pop(frame, None)
                continue
            for level in range(self._level.get(frame, 0), 1 if age < self._most[0] else 2):
                page = bank.page(frame)
                if level and not self.mass:  # a mean of means is one of tokens only if blocks count by their sizes
                    page = replace(page, mass=self._blocks[0].bincount().float().expand(len(page.k), -1))
                page = averaged(page, self._blocks[level])
                bank.write(frame, page if self.mass else replace(page, mass=None))
                self._level[frame] = level + 1


def blocks(rows: int, columns: int) -> Int[Tensor, "s"]:
    """The number of the block of 2x2 that each token of a grid lies in, row by row."""
    y, x = torch.meshgrid(torch.arange(rows) // 2, torch.arange(columns) // 2, indexing="ij")
    return (y * -(-columns // 2) + x).flatten()


def averaged(page: Page, block: Int[Tensor, "s"]) -> Page:
    """One row a block, the mean of its rows weighted by their masses; its mass is their sum."""
    mass = torch.ones(page.k.shape[0], page.rows, device=page.k.device) if page.mass is None else page.mass.to(page.k.device)
    count = int(block.max()) + 1
    total = mass.new_zeros(len(mass), count).index_add_(1, block, mass)

    def mean(x: Float[Tensor, "l n *c"]) -> Float[Tensor, "l m *c"]:
        weight, whole = (m.reshape(*m.shape, *[1] * (x.dim() - 2)) for m in (mass, total))
        out = x.new_zeros(len(x), count, *x.shape[2:], dtype=torch.float32).index_add_(1, block, x.float() * weight)
        return (out / whole).to(x.dtype)

    k, v = (mean(x.transpose(1, 2)).transpose(1, 2) for x in (page.k, page.v))
    return Page(k, v, mean(on_one_side(page.positions.to(mass.device), block)), total)


def on_one_side(positions: Float[Tensor, "l n 3"], block: Int[Tensor, "n"]) -> Float[Tensor, "l n 3"]:
    """Positions with full turns taken off where a block's lie on both sides of one: as near to its first row's as they can be.

    Angles are in radians. Where positions count tokens nothing changes: within a block of 4x4 they differ by 2 at most, which is less than half a turn.
    """
    at = block.to(positions.device)
    first = torch.stack([(at == i).nonzero()[0, 0] for i in range(int(at.max()) + 1)])
    return positions - 2 * pi * torch.round((positions - positions[:, first[at]]) / (2 * pi))
