"""Only heads that look far back keep what left the recent window."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Count, Natural, Share
from policies.parts.lost import Lost
from policies.parts.reach import Reach, labels_of
from policies.parts.wrapped import frames_of


@dataclass
class HeadsPolicy(PolicyWrapper):
    """Around any policy that brings frames back: the other heads attend to sink and recent frames only, and their rows of older frames
    are dropped from the bank.

    Kept are the `share` of all heads with the greatest reach (see `policies.parts.reach`; ties to lower layers and heads), or those whose
    reach is at least `threshold`. labels: a file of reaches that harness/calibrate.py made for the backbone, from chunks that return
    to a view; `auto`: the shipped file of a network of these sizes, where there is one (`rooms` alone; other weights of
    the same sizes get it too: give them a file of their own); null: none. Without a file the heads are
    calibrated online, over the first `calibrate` chunks that have frames between sink and recent; until then every head keeps
    everything, and these clean passes cost a second attention. Online calibration sees a place for the first time, when nothing
    needs to be remembered: reaches of 0.08 where returns had 0.29, with the model before the shipped one.
    Sources: Forcing-KV (arXiv 2605.09681) calls a head static if at least 80 % of its non-sink attention falls on the 4 newest
    latents (threshold=0.2; 37 to 43 % of the heads, hence a share of 0.6), Dummy Forcing (arXiv 2601.20499) ranks heads online
    at the 2nd chunk, RazorAttention (arXiv 2407.15891) and DuoAttention (arXiv 2410.10819) keep a full cache for retrieval heads
    only. Simplified: Forcing-KV's dynamic heads also prune what they keep; near is what it calls the 4 newest latents, here the recent frames and the
    chunk's own, 6 by default; RazorAttention keeps about 15 % of the heads, which it finds by echoes and inductions of repeated tokens, here reach decides
    for `razor` too.

    sink, recent: in frames; null: the inner policy's. An inner policy that charges by the rows that the average head
    holds (unit=equivalents) brings more chunks back to fewer heads; with unit=frames the same chunks, and attention shrinks.

    compensate: RazorAttention's compensation token: a head that was cut attends to one more row, the mean key and the mean value of all N
    rows that it lost, with logit q.mean(k) + log N. Its keys are means of rotated ones, as cached there. The row lies in the page of frame 0,
    which is therefore written anew when something is cut, and stored beside its copy in the window. Not done: rows that a compressor
    dropped before are in no mean.
    """

    inner: CachePolicy
    sink: Natural | None = None
    recent: Natural | None = None
    share: Share = 0.6
    threshold: Share | None = None
    calibrate: Count = 3
    labels: str | None = "auto"
    compensate: bool = False
    _trimmed: dict[int, float] = field(default_factory=dict, init=False, repr=False)  # frame -> rows held after its trimming

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        geometry.check_alone("heads")
        if not self.inner.rewritable:
            raise ValueError(f"heads: {type(self.inner).__name__} rewrites or re-encodes what it stores, so heads cannot be cut out of it; wrap another policy")
        self._sink, self._recent = (frames_of(self.inner, field, asked) for field, asked in (("sink", self.sink), ("recent", self.recent)))
        if self.compensate and self.inner.pooled:
            raise ValueError(f"heads: {type(self.inner).__name__} scores single rows, and a mean row in frame 0 would be one more; use compensate=false")
        if self.compensate and (self.inner.raw_keys or not self._sink):
            found = f"{type(self.inner).__name__} places its rows anew" if self.inner.raw_keys else "sink=0 leaves no page that is always attended to"
            raise ValueError(f"heads: {found}, so a mean row has no place; use compensate=false, or an inner policy with absolute placement and a sink")
        self.rewritable, self.rotated_keys = False, self.rotated_keys or self.compensate
        self._lost = Lost()
        self._lost.reset(geometry)
        known = None if self.labels is None else labels_of(self.labels, geometry)
        self._far: Tensor | None = None if known is None else self._chosen(known)  # l h: heads that keep older frames; None: calibrating
        self.needs_attention_scores = known is None or self.inner.needs_attention_scores
        self._reach = Reach()
        self._reach.reset(geometry)
        self._old: list[int] = []
        self._trimmed = {}

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        plan = super().plan(chunk, bank)
        self._old = [f for f in plan.frames if self._sink <= f < chunk.start - self._recent]
        if self._far is None or self._far.all():
            return plan
        seen = {f: plan.seen[f].to(self._far.device) & self._far if f in plan.seen else self._far for f in self._old}
        return replace(plan, seen={**plan.seen, **seen})

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if site.clean and not site.cross and self._far is None and self._old:
            self._reach.look(q, k, site, self._old, self._sink)
        return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        if self._far is None:
            if self._reach.passes < self.calibrate:
                return
            self._far = self._chosen(self._reach.mean)
        if self._far.all():
            return
        for frame in bank.frames:
            if self._sink <= frame <= chunk.frames[-1] - self._recent and self._trimmed.get(frame) != bank.held(frame):
                page = bank.page(frame)
                bank.write(frame, page.only(self._far[:, None].expand(-1, page.rows, -1)))
                self._trimmed[frame] = bank.held(frame)
                if self.compensate:
                    self._lost.take(page, ~self._far)
        if self._lost.fresh:
            bank.write(0, self._lost.beside(bank.page(0)))

    def _chosen(self, reach: Tensor) -> Tensor:
        if self.threshold is not None:
            return reach >= self.threshold
        far = torch.zeros(reach.numel(), dtype=torch.bool, device=reach.device)
        far[reach.flatten().argsort(dim=0, descending=True, stable=True)[: round(self.share * reach.numel())]] = True
        return far.view_as(reach)
