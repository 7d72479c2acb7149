"""Score rows by the attention that a Gaussian of future queries would give them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import Geometry, Site
from harness.settings.ranges import Count
from policies.parts.score.future import FutureScorer

ROWS = 256  # of a chunk whose places stand for all of them, evenly spaced


@dataclass
class ExpectedScorer(FutureScorer):
    """ExpectedAttention (NVIDIA/kvpress): un-rotated queries are taken for a Gaussian with mean m and covariance C, the rotation R of the
    queries to come is averaged, and a row is worth the attention that such queries would pay it, times the size of its value:

        softmax_i(k_i . R m / sqrt(d) + k_i . (R C R') k_i / (2 d)) * |v_i|

    with the softmax over the pool. Moments are those of all clean passes so far. horizon: R is the mean over the newest chunk's places
    at the next frames, one time a chunk, so many frames ahead (512 tokens there). covariance, values: whether the second and the
    last factor count.

    Uncertain: in a world model the places to come depend on where the camera turns; the mean over the newest chunk's places knows nothing of
    it, and favours what the present view needs. Where places are directions of rays (`backbone=rooms`) the mean rotation over a view of 80 degrees
    also leaves little of what tells directions apart: of a channel of azimuth frequency f the share |sin(0.698 f) / (0.698 f)|, with half of
    the view in radians, 0.92 at f = 1, 0.41 at 3, and at most 0.21 from 4 on, five of the eight frequencies. This may be why
    its row in the bench is near that of `sink_recent`; that was not measured by itself. Simplified: there moments are those of one prompt,
    and the first 4 tokens are left out.
    """

    horizon: Count = 12
    covariance: bool = True
    values: bool = True

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._second = torch.zeros(*self._first.shape, geometry.head_dim, device=geometry.device)

    def note(self, q: Tensor, layer: int) -> None:
        if self.covariance:
            self._second[layer] += torch.einsum("rhd,rhe->hde", q, q) / len(q)

    def positions(self, site: Site) -> Float[Tensor, "n 3"]:
        assert site.positions is not None
        count = len(site.positions)
        places = site.positions[torch.linspace(0, count - 1, min(count, ROWS), device=site.positions.device).long()]
        ahead = torch.arange(self._chunk, self.horizon + self._chunk, self._chunk, device=places.device)
        return torch.cat([places + torch.tensor([float(t), 0.0, 0.0], device=places.device) for t in ahead.tolist()])

    def score(self, frames: tuple[int, ...], bank: KVBank) -> Float[Tensor, "l n h"]:
        page, mean, turn = self.page(frames, bank), self.mean, self._turn
        k, width = page.k.float(), page.k.shape[-1]
        logits = torch.einsum("lbnhd,lhd->lnh", k, mean @ turn) / (k.shape[1] * width**0.5)
        if self.covariance:
            spread = self._second / max(self._passes, 1) - mean[..., None] * mean[..., None, :]
            logits += torch.einsum("lbnhd,lhde,lbnhe->lnh", k, turn.mT @ spread @ turn, k) / (k.shape[1] * 2 * width)
        if page.present is not None:
            logits = logits.masked_fill(~page.present.to(logits.device), -torch.inf)
        worth = logits.softmax(1)
        return worth * page.v.float().norm(dim=-1).mean(1) if self.values else worth
