"""Keep the keys that differ most from the chunk's own average."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Gt, Le
from policies.parts.compress.base import Compressor, Kept, lowest, share_of
from policies.parts.concatenated import unit


@dataclass
class KeyDiffCompressor(Compressor):
    """KeyDiff (arXiv 2504.15364): keep `ratio` of all rows, those whose keys have the lowest cosine to the mean of the unit
    keys; no frame is an anchor. World Compression is this with an anchor frame's mean, and spares that frame.

    budget: frame (ceil(ratio * tokens) of each) or pooled (the same total over the chunk; the chunk becomes one page).
    keys: rotated or raw. Uncertain: the paper scores each head by itself and keeps a window of newest tokens; a page has one
    set of rows for all heads of a layer, so heads are concatenated, and the recent window is the policy's own.
    """

    ratio: Annotated[float, Gt(0), Le(1)] = 0.5
    budget: Literal["frame", "pooled"] = "frame"
    keys: Literal["rotated", "raw"] = "rotated"

    def reset(self, geometry: Geometry) -> None:
        self._tokens, self._ranks = geometry.tokens, geometry.ranks
        self.joint = self.budget == "pooled"

    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        keys = unit((kv.k if self.keys == "rotated" else kv.k_raw).flatten(3).float(), self._ranks)  # l b m c
        score = self._ranks.sum(torch.einsum("lbmc,lbc->lm", keys, unit(keys.mean(2), self._ranks)))
        n = share_of(self.ratio, self._tokens)
        if self.joint:
            return [(chunk.frames, lowest(score, [n * len(chunk.frames)] * len(score)))]
        each = score.unflatten(1, (-1, self._tokens))
        return [((frame,), lowest(each[:, i], [n] * len(each))) for i, frame in enumerate(chunk.frames)]
