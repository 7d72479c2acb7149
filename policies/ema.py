"""The past as two moving averages: constant memory that has no geometry."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Natural, Share


@dataclass
class EmaPolicy(CachePolicy):
    """MemRoPE (arXiv 2603.12513): sink, a long and a short moving average of all that left the window, recent frames.

    Raw keys and values of every place of the image, in every layer, average over the frames x_1, x_2, ... that leave the
    window: M_1 = x_1 and M_i = (1 - a) M_(i-1) + a x_i with a = `long` and a = `short`. The two averages are pages of one
    frame each; the window is numbered anew from 0 (sink, long, short, recent, chunk), so no position ever grows. The
    paper's window of 12 has 3 sink, 4 recent and 3 new frames.

    fold: `frame` (as above, frame by frame and place by place) or `global` (the released code's default: once a chunk, and x_i is the
    mean of all rows of all frames that leave, the same for every place).

    The control that loses geometry: a moving camera smears. Averaged frames count as unreachable, but for the two under
    whose numbers the averages are kept. Averages are taken in float32 and kept in the cache's precision; a lossy codec of
    the store (int8, int4) rounds them at every step, and small steps are lost: use one that keeps them (none, bf16). Where rows of
    a place differ in position (the `rooms` model rotates by the direction of view) positions average too, without regard to
    the turn of an angle. Not done: the option of an `a` for each
    token, by motion.
    """

    sink: Natural = 3
    recent: Natural = 10
    long: Share = 0.01
    short: Share = 0.1
    fold: Literal["frame", "global"] = "frame"
    raw_keys = pooled = True
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        self._means: list[int] = []  # frames under which the long and the short average are kept

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        frames = tuple(bank.frames)
        return Plan(frames, tuple(float(i) for i in range(len(frames))), float(len(frames)))

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        leaving = [f for f in bank.frames if self.sink <= f <= chunk.frames[-1] - self.recent and f not in self._means]
        for frames in [leaving] if self.fold == "global" and leaving else [[f] for f in leaving]:
            self._fold(frames, bank)

    def _fold(self, frames: list[int], bank: KVBank) -> None:
        """Frames that leave together move both averages once; the first two frames that ever left lend them their numbers."""
        spots, old = [*self._means, *frames][:2], [bank.page(f) for f in self._means]
        self._means = spots
        if not old and self.fold == "frame":  # the first frame that leaves is both averages
            return
        new = bank.page(frames[0]) if self.fold == "frame" else flat([bank.page(f) for f in frames])
        for frame in set(frames) - set(spots):
            bank.drop(frame)
        starts = old * 2 if len(old) == 1 else old or [new, new]
        for spot, page, share in zip(spots, starts, (self.long, self.short), strict=False):
            bank.write(spot, averaged(spot, page, new, share))


def flat(pages: list[Page]) -> Page:
    """A frame whose rows are all the mean of all rows of these frames, at the places of the first."""
    k, v = (torch.cat([getattr(p, name) for p in pages], 2).float().mean(2, keepdim=True).to(pages[0].k.dtype) for name in ("k", "v"))
    return replace(pages[0], k=k.expand_as(pages[0].k), v=v.expand_as(pages[0].v))


def averaged(frame: int, old: Page, new: Page, share: float) -> Page:
    """The page a `share` of the way from `old` to `new`, row by row, to stand for `frame` in time."""
    k, v, positions = (
        torch.lerp(a.float(), b.float(), share).to(a.dtype) for a, b in ((old.k, new.k), (old.v, new.v), (old.positions, new.positions.to(old.positions)))
    )
    positions[..., 0] = frame
    return replace(old, k=k, v=v, positions=positions)
