"""A codec that codes what is left of a row after its cluster's mean."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.codecs import TINY, Codec
from harness.settings.ranges import Count, Ge, Le


@dataclass
class KMeans(Codec):
    """Quant-VideoGen's idea (arXiv 2602.02958): k-means over a page's rows, layer by layer and head by head; a row is kept as
    the number of its centroid (a byte), and the residual in `bits` (2 or 4) a number with a float16 scale for every `group`
    channels (of the whole head where that is smaller). Centroids are float16 and belong to the page. `stages`: the residual
    is clustered again, that often.

    A group's residuals lie in [-r, r], which is cut into 2^bits equal cells; a number becomes the middle of its cell. None is
    wrong by more than r / 2^bits and 2^-10 of r, r being the largest residual in its group. Measured on tokens of 64 channels in
    8 clusters (tests/test_kmeans.py): at 4 bits 0.25, at 2 bits 0.99 of the root mean square error of `int4`, which knows no clusters.
    Centroids: at most `centroids` (256 published, over a span of several frames), and one for every `rows` rows of the page
    (a page is a frame here); started from evenly spaced rows, `iterations` rounds of Lloyd (2 to 4 published), deterministic.
    Unlike other codecs it codes the rows of a page together: coding a part of them, or what was decoded, gives other
    errors within the bound. Where rows are absent, the present ones of all layers and heads are clustered together.
    """

    bits: Literal[2, 4] = 4
    group: Count = 32
    centroids: Annotated[int, Ge(1), Le(256)] = 256
    rows: Count = 32
    iterations: Annotated[int, Ge(0), Le(1000)] = 4
    stages: Annotated[int, Ge(1), Le(16)] = 1

    def encode(self, x: Float[Tensor, "*r d"]) -> tuple[Tensor, ...]:
        """Codes and scales, then the centroids and every row's number among them, stage by stage."""
        d, group, packed = x.shape[-1], min(self.group, x.shape[-1]), 8 // self.bits
        if d % group or d % packed:
            raise ValueError(f"codec kmeans: groups of {self.group} do not divide a head of {d} channels; choose a divisor of a multiple of {packed}")
        clusters: list[Tensor] = []
        residual = x.float()
        for _ in range(self.stages):
            vectors = _vectors(residual)
            means, ids = zip(*map(self._cluster, vectors), strict=True)  # a layer at a time: g n c distances
            clusters += [torch.stack(means), torch.stack(ids).to(torch.uint8)]
            residual = residual - _rows(_pick(clusters[-2], clusters[-1]), x.shape)
        parts = residual.unflatten(-1, (-1, group))
        scale = parts.abs().amax(-1, keepdim=True).clamp(min=TINY).half()
        levels = 2**self.bits
        codes = ((parts / scale.float() + 1) * (levels / 2)).floor().clamp(0, levels - 1).to(torch.uint8).flatten(-2).unflatten(-1, (-1, packed))
        shifts = torch.arange(0, 8, self.bits, dtype=torch.uint8, device=x.device)
        return ((codes << shifts).sum(-1).to(torch.uint8), scale, *clusters)

    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Float[Tensor, "*r d"]:
        bytes_, scale, *clusters = parts
        shifts = torch.arange(0, 8, self.bits, dtype=torch.uint8, device=bytes_.device)
        codes = (bytes_[..., None] >> shifts & 2**self.bits - 1).flatten(-2).unflatten(-1, (scale.shape[-2], -1))
        x = (((codes.float() + 0.5) / 2 ** (self.bits - 1) - 1) * scale.float()).flatten(-2)
        for means, ids in zip(clusters[::2], clusters[1::2], strict=True):
            x = x + _rows(_pick(means, ids), x.shape)
        return x.to(dtype)

    def _cluster(self, x: Float[Tensor, "g n d"]) -> tuple[Float[Tensor, "g c d"], Int[Tensor, "g n"]]:
        """Lloyd's rounds; ties to the first centroid, and a centroid that lost all its rows stays where it is."""
        n, count = x.shape[1], max(1, min(self.centroids, x.shape[1] // self.rows))
        means = x[:, torch.arange(count, device=x.device) * n // count] if n else x.new_zeros(len(x), count, x.shape[2])
        for _ in range(self.iterations if n else 0):
            ids = _nearest(x, means)
            size = x.new_zeros(means.shape[:2]).scatter_add_(1, ids, x.new_ones(ids.shape))[..., None]
            total = torch.zeros_like(means).scatter_add_(1, ids[..., None].expand(x.shape), x)
            means = torch.where(size > 0, total / size.clamp(min=1), means)
        means = means.half()
        return means, _nearest(x, means.float())


def _nearest(x: Float[Tensor, "g n d"], means: Float[Tensor, "g c d"]) -> Int[Tensor, "g n"]:
    return (means.square().sum(-1)[:, None] - 2 * x @ means.mT).argmin(-1)


def _pick(means: Float[Tensor, "l g c d"], ids: Int[Tensor, "l g n"]) -> Float[Tensor, "l g n d"]:
    return means.float().take_along_dim(ids.long()[..., None], 2)


def _vectors(x: Float[Tensor, "*r d"]) -> Float[Tensor, "l g n d"]:
    """What is clustered together: the rows of a head, or all rows where some are absent."""
    return x.movedim(2, 3).flatten(1, 2) if x.dim() == 5 else x.movedim(0, 1)[None]


def _rows(vectors: Float[Tensor, "l g n d"], shape: torch.Size) -> Float[Tensor, "*r d"]:
    """`_vectors` undone."""
    return vectors.unflatten(1, (shape[1], shape[3])).movedim(3, 2) if len(shape) == 5 else vectors[0].movedim(1, 0)
