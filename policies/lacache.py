"""A ladder: every layer remembers other frames, and older ones more sparsely."""

from collections import Counter
from dataclasses import dataclass
from math import ceil, floor, inf

import torch

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Limit, Natural, Share


@dataclass
class LaCachePolicy(CachePolicy):
    """LaCache (arXiv 2507.14204), with latent frames for tokens: sink, recent frames, and in between at most `budget` frames a layer, in
    each layer others.

    When one frame is too many, the next `w` frames of every layer become `n`, of which layer i keeps those from place i mod (w - n + 1)
    on; a cursor goes from the oldest to the newest and then begins again, so that what is old has been thinned more often. With S =
    `span` of the layers and O = `overlap` (layers that two neighbouring steps of the ladder share):

        w = 1 + ceil((layers - S) / (S - O)),  n = min(ceil(S / (S - O)), w)

    as in the released code (GATECH-EIC/LaCache; its defaults are half of the layers and 0, so that of two neighbours even layers keep the
    first and odd layers the second). Nothing is scored. A frame counts as unreachable once less than half of the layers
    hold it, but for the first, under whose number all of them are kept.

    Uncertain: the paper draws steps that fall from shallow to deep layers, the code takes them modulo; ours is the code's. Simplified: frames
    for tokens, so that a picture is whole or absent in a layer; its cache starts with 4 tokens, here with `sink` frames; positions
    stay absolute.
    """

    sink: Natural = 3
    recent: Natural = 3
    budget: Limit = 9
    span: Share = 0.5
    overlap: Natural = 0
    pooled = True
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        layers, span = geometry.layers, max(1, floor(self.span * geometry.layers + 0.5))
        if self.overlap >= span:
            raise ValueError(f"lacache: overlap={self.overlap} of a span of {span} layers; use less overlap, or a greater span={self.span}")
        self._group = 1 + ceil((layers - span) / (span - self.overlap))
        self._stay = min(ceil(span / (span - self.overlap)), self._group)
        self._most = self.budget if self.budget == inf else floor(round(self.budget, 6))
        if self._group == self._stay and self.budget < inf:
            raise ValueError(f"lacache: a span of {span} and an overlap of {self.overlap} of {layers} layers forget nothing; use a smaller span or overlap")
        if self._group > self._most + 1 > 1:
            raise ValueError(f"lacache: budget={self.budget} frames, but {self._group} are thinned at once; use {self._group - 1}, or a greater span")
        self._tokens, self._cursor, self._next = geometry.tokens, 0, self.sink
        self._held: list[list[int]] = [[] for _ in range(layers)]  # layer -> frames in between, oldest first

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        holders = Counter(f for frames in self._held for f in frames)
        return Plan.of_frames(bank.frames, candidates={f for f, layers in holders.items() if 2 * layers >= len(self._held)})

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        """What lies in between is one page from the first overflow on, under its first frame."""
        bank.append(chunk, kv)
        pool = [f for f in bank.frames if self.sink <= f <= chunk.frames[-1] - self.recent]
        while self._next <= chunk.frames[-1] - self.recent:
            for frames in self._held:
                frames.append(self._next)
            self._next += 1
        places = [list(range(len(frames))) for frames in self._held]
        while len(places[0]) > self._most and self._most:
            self._thin(places)
        if not self._most:
            for frame in pool:
                bank.drop(frame)
            self._held = [[] for _ in self._held]
        elif len(places[0]) < len(self._held[0]):
            at = torch.tensor(places)[..., None] * self._tokens + torch.arange(self._tokens)
            page = Page.joined([bank.page(f) for f in pool]).keep(at.flatten(1).to(kv.k.device))
            for frame in pool[1:]:
                bank.drop(frame)
            bank.write(pool[0], page)
            self._held = [[frames[i] for i in kept] for frames, kept in zip(self._held, places, strict=True)]

    def _thin(self, places: list[list[int]]) -> None:
        """One step of the ladder: the group at the cursor loses what its layer does not keep."""
        if self._cursor + self._group > len(places[0]):
            self._cursor = 0
        for layer, kept in enumerate(places):
            first = self._cursor + layer % (self._group - self._stay + 1)
            kept[self._cursor : self._cursor + self._group] = kept[first : first + self._stay]
        self._cursor += self._stay
