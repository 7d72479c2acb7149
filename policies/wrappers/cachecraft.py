"""Some of what comes back is encoded again, the rest is used as it was stored."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from harness.cache.attention import received
from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Natural, Share
from policies.parts.wrapped import frames_of, numbered_from_zero


@dataclass
class CacheCraftPolicy(PolicyWrapper):
    """Cache-Craft (arXiv 2502.15734), chunk by chunk, around any policy that retrieves: between reuse (share 0) and `reencode` (share 1). Of
    the retrieved chunks the `share` that miss most of what they were made from run through the clean pass again, at their place
    in the plan; the others keep their stored K/V, rotated to their new position.

    What a chunk misses is the share of its attention, averaged over the queries, layers and heads of its own clean pass, that fell on frames
    that the plan does not have before it:

        missing(c) = sum of attention(c, f) over frames f of its past that do not stand before c now

    which is Cache-Craft's inter-attention times the part of the prefix that is not there again. Positions are numbered from 0, as in
    `reencode`; sink and recent frames are never encoded again. sink: in frames; null: the inner policy's.
    share: of the retrieved chunks, rounded to the nearest number, halves up (two of three at 0.5); ties to the first in the plan.

    Cost: a second attention in every clean pass, and a clean pass a chunk that is encoded again, unless the plan up to it is as before (with a selector that
    looks at the chunk's own queries it seldom is: those plan twice). Stored: K/V
    and latents. Simplified: Cache-Craft recomputes single tokens, a number that follows from the score; a backbone's pass takes whole chunks.
    Not done: its penalty for prefixes in another order. Uncertain: the share of a half, which is ours.
    """

    inner: CachePolicy
    sink: Natural | None = None
    share: Share = 0.5
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._sink = frames_of(self.inner, "sink", self.sink)
        if self.inner.pooled or not self.inner.rewritable:
            raise ValueError(f"cachecraft: {type(self.inner).__name__} cuts or joins the pages that it stores, and whole chunks are encoded; wrap another")
        if self.inner.compresses:
            raise ValueError("cachecraft: the inner policy compresses what it stores, and whole chunks are encoded again; use policy/inner/compressor=none")
        if self.tries:
            raise ValueError("cachecraft: a selector that tries plans assembles them, and the chunks encoded again would be lost; choose another selector")
        self.needs_attention_scores, self._size, self._layers, self._now = True, geometry.chunk, geometry.layers, 0
        self._geometry = geometry
        self._leant: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # chunk -> frames of its past, and the share of its attention that each had
        self._past: list[int] = []  # frames that the newest chunk attended to
        self._shares: dict[int, Tensor] = {}  # layer -> what each of them received

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = numbered_from_zero(super().plan(chunk, bank), chunk.start)
        self._now = chunk.index
        missing = {}
        for at, frame in enumerate(plan.frames):
            own = tuple(range(frame, frame + self._size))
            if frame >= self._sink and frame % self._size == 0 and set(own) <= set(plan.retrieved) and plan.frames[at : at + self._size] == own:
                past, shares = self._leant.get(frame // self._size, (np.empty(0, np.int64), np.empty(0, np.float32)))
                missing[frame // self._size] = float(shares[~np.isin(past, plan.frames[:at])].sum(dtype=np.float64))
        order = sorted(missing, key=lambda c: -round(missing[c], 6))
        return replace(plan, again=frozenset(order[: int(self.share * len(order) + 0.5)]))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if site.clean and not site.cross and site.chunk == self._now:  # and not an older one that is encoded again
            share = self._geometry.mean_over_heads(received(q, k, site.bias, site.groups), 0)
            self._past = [f for f in site.slots if f < site.chunk * self._size]
            self._shares[site.layer] = torch.stack([share.new_zeros(()), *(share[torch.from_numpy(site.slots[f])].sum() for f in self._past)])[1:]
        return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        if chunk.start >= self._sink:
            bank.note(chunk, kv)
        shares = torch.stack([self._shares[layer] for layer in range(self._layers)]).mean(0)
        remembered = {f // self._size for f in bank.frames}
        self._leant = {c: leant for c, leant in self._leant.items() if c in remembered}
        self._leant[chunk.index] = np.array(self._past, np.int64), shares.float().cpu().numpy()
