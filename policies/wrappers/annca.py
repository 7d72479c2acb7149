"""AnnCA: cross-attention only to the prompt tokens that lie near a frame's queries."""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from harness.cache.attention import dense
from harness.datatypes import Geometry, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Gt, Le
from policies.parts.compress.base import share_of
from policies.wrappers.ann import Hashing


@dataclass
class AnnCaPolicy(PolicyWrapper):
    """AnnCA of FAST-AR (arXiv 2602.01801), around any policy, for backbones with a prompt or image tokens: each frame's
    queries attend to the share `density` of the prompt's tokens that most of them lie near; self-attention is the inner
    policy's. A query is near a token if they share a hash bucket in at least one table (keys minus their mean); heads are
    taken together. density: 1 is dense; None keeps every token that at least one query of the frame is near, and all of
    them if none is.

    The first frame of a chunk is its rows `[0, tokens)`. Uncertain: the paper's bits, tables and thresholds, and whether it
    chooses a head or a layer at a time. World models have short or constant prompts: there is little to gain.
    The embedded model has no prompt, so that around it nothing changes and the row in the bench is the inner policy's.
    """

    inner: CachePolicy
    density: Annotated[float, Gt(0), Le(1)] | None = 0.5
    hashing: Hashing = field(default_factory=lambda: Hashing(bits=8, tables=8))

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        geometry.check_alone("annca")
        self._tokens = geometry.tokens

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if not site.cross or self.density == 1:
            return super().attend(q, k, v, site)
        keys = k[0].flatten(1)
        codes = self.hashing.codes(keys - keys.mean(0))
        out = []
        for frame in q.split(self._tokens, 1):
            near = self.hashing.neighbours(self.hashing.codes(frame[0].flatten(1)), codes).sum(0)
            rows = self._kept(near)
            out.append(dense(frame, k[:, rows], v[:, rows]))
        return torch.cat(out, 1)

    def _kept(self, near: Tensor) -> Tensor:
        """Tokens by the number of queries that are near them, in their own order."""
        if self.density is None:
            return near.nonzero()[:, 0] if near.any() else torch.arange(len(near), device=near.device)
        return near.argsort(descending=True, stable=True)[: share_of(self.density, len(near))].sort().values
