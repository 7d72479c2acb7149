"""Compressors that look at nothing: what a score has to beat."""

from dataclasses import dataclass
from typing import Literal

import torch

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Seed, Share
from policies.parts.compress.base import Compressor, Kept, share_of


@dataclass
class BlindCompressor(Compressor):
    """Keep `ratio` of a frame's rows whatever they hold, the same in all layers: `random` (by seed, chunk and frame) or
    `uniform` (evenly spaced). anchor: spare the chunk's first frame, as World Compression does, so that only the score differs.
    """

    rows: Literal["random", "uniform"] = "random"
    ratio: Share = 0.25
    anchor: bool = True
    seed: Seed = 0

    def reset(self, geometry: Geometry) -> None:
        self._tokens, self._layers = geometry.tokens, geometry.layers

    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        n = share_of(self.ratio, self._tokens)
        kept: Kept = []
        for frame in chunk.frames[1:] if self.anchor else chunk.frames:
            if self.rows == "random":
                g = torch.Generator().manual_seed((self.seed * 100_003 + frame) % 2**63)
                rows = torch.randperm(self._tokens, generator=g)[:n].sort().values
            else:
                rows = (torch.arange(n) + 0.5).mul(self._tokens / max(n, 1)).long()
            kept.append(((frame,), rows.expand(self._layers, -1)))
        return kept
