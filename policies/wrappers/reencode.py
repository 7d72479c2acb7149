"""Memory for compute: the past is kept as latents and encoded again where it is needed."""

from dataclasses import dataclass

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Natural
from policies.parts.window import Window
from policies.parts.wrapped import numbered_from_zero


@dataclass
class ReencodePolicy(PolicyWrapper):
    """HY-WorldPlay's reconstituted context (arXiv 2512.14614) without its training, around any policy that retrieves: of chunks
    that are neither sink nor recent only latents are stored; what a plan brings back runs through the clean pass once more,
    as the past of this chunk: in the plan's order, each chunk attending to what comes before it, at the plan's positions.

    sink, recent: frames that keep their K/V (the first and the newest, and the rest of the chunks that these end in); with 0 and 0
    the whole window is encoded anew, as HY-WorldPlay does. Positions are numbered from 0 ("temporal reframing": 0 ... M - 1, then
    the chunk), so that chunks stay encoded as long as the plan before them does (a selector that looks at the chunk's own queries plans
    twice, and what only the second plan has is encoded again each time). Absolute placement leaves every position as it is:
    around `full`, with sink=0 and recent=0, that gives back the K/V that were thrown away, since every chunk sees its own past
    again.

    Cost: (clean passes of the retrieved chunks, at most one each) a chunk, in the time of assembly; their K/V are in the
    window and nowhere else. Stored: frames x tokens x channels of latents instead of 2 x layers x heads x head_dim for
    every token. Uncertain: HY-WorldPlay encodes its memory frames in one pass, where all see one another, and its
    model is trained for it; ours is chunk by chunk, causal, as the backbone was trained.
    """

    inner: CachePolicy
    sink: Natural = 3
    recent: Natural = 3
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if self.inner.pooled or not self.inner.rewritable:
            raise ValueError(f"reencode: {type(self.inner).__name__} cuts or joins the pages that it stores, and whole chunks are encoded again; wrap another")
        if self.inner.compresses:
            raise ValueError("reencode: the inner policy compresses what it stores, and whole chunks are encoded again; use policy/inner/compressor=none")
        if self.tries:
            raise ValueError("reencode: a selector that tries plans assembles them, and the chunks encoded again would be lost; choose another selector")
        self._size = geometry.chunk
        self._kept: list[int] = []  # chunks whose K/V go once none of their frames is recent

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return numbered_from_zero(super().plan(chunk, bank), chunk.start)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        super().commit(chunk, kv, bank)
        if chunk.start < self.sink:
            return
        bank.note(chunk, kv)
        self._kept.append(chunk.index)
        while self._kept and self._kept[0] <= Window(self.sink, self.recent, self._size).leaving(chunk.index):
            gone = self._kept.pop(0) * self._size
            for frame in filter(bank.rows, range(gone, gone + self._size)):
                bank.strip(frame)
