"""World Compression: the anchor frame whole, of the others the tokens that are least like it."""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.types import KV, Chunk, Geometry
from policies.compress.base import Compressor, Kept


@dataclass
class AnchorCompressor(Compressor):
    """WorldKV section 4.2: keep `ratio` of the non-anchor tokens, those with the lowest similarity to the anchor frame.

    similarity: mean (cosine to every anchor key, averaged: the paper) or centroid (cosine to the mean anchor key: the
    released code). keys: rotated (the released code; the score mixes content with place) or raw (before RoPE: content
    alone). Heads are concatenated, layers are independent.
    budget: frame (ceil(ratio * tokens) for each frame) or pooled (the same total over the non-anchor frames together).
    rotate: the anchor is not the chunk's first frame but the one of its place in the order of retrieval (a flag of the
    released code, only for compression at retrieval).
    A 3-frame chunk keeps (1 + 2 * ratio) / 3 of its rows: half of them at the paper's 0.25.
    """

    ratio: float = 0.25
    similarity: str = "mean"
    budget: str = "frame"
    keys: str = "rotated"
    rotate: bool = False

    def reset(self, geometry: Geometry) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"anchor compressor: ratio={self.ratio}; the kept share lies between 0 and 1")
        if self.similarity not in ("mean", "centroid") or self.budget not in ("frame", "pooled"):
            raise ValueError(f"anchor compressor: similarity={self.similarity!r}, budget={self.budget!r}; use mean or centroid, frame or pooled")
        if self.keys not in ("rotated", "raw"):
            raise ValueError(f"anchor compressor: keys={self.keys!r}; use rotated or raw")
        self._tokens, self._chunk = geometry.tokens, geometry.chunk
        self.joint = self.budget == "pooled"

    @property
    def slots(self) -> int:
        return self._chunk if self.rotate else 1

    def keep(self, chunk: Chunk, kv: KV, slot: int = 0) -> Kept:
        n, anchor = ceil(self.ratio * self._tokens), slot % self.slots
        others = [i for i in range(len(chunk.frames)) if i != anchor]
        frames = [chunk.frames[i] for i in others]
        keys = kv.k if self.keys == "rotated" else kv.k_raw
        score = self._similarity(keys.unflatten(2, (len(chunk.frames), self._tokens)), anchor, others)
        if self.budget == "pooled":
            return [(tuple(frames), _lowest(score.flatten(1), n * len(frames)))]
        return [((frame,), _lowest(score[:, i], n)) for i, frame in enumerate(frames)]

    def _similarity(self, k: Float[Tensor, "l b f s h d"], at: int, others: list[int]) -> Float[Tensor, "l g s"]:
        """Cosine of the keys of the other frames to those of the anchor frame, heads concatenated, rollouts averaged."""
        keys = k.flatten(4).float()
        anchor, rest = keys[:, :, at], keys[:, :, others]
        if self.similarity == "mean":
            anchor = F.normalize(anchor, dim=-1)
        centroid = anchor.mean(2)
        if self.similarity == "centroid":
            centroid = F.normalize(centroid, dim=-1)
        return torch.einsum("lbgsc,lbc->lgs", F.normalize(rest, dim=-1), centroid) / k.shape[1]


def _lowest(score: Float[Tensor, "l n"], count: int) -> Tensor:
    """Indices of the `count` lowest scores of each layer, in rising order; ties by index."""
    return torch.argsort(score, dim=1, stable=True)[:, :count].sort(1).values
