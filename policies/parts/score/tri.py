"""Score rows by the logits that the mean query will give them as time goes on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import Geometry, Site
from harness.settings.ranges import Count
from policies.parts.score.future import FutureScorer, mean_turn


@dataclass
class TriScorer(FutureScorer):
    """TriAttention (arXiv 2604.04921): un-rotated queries q cluster around a centre, head by head, so that their logits follow from it. With
    q_f and k_f the pairs of channels that time rotates (as complex numbers, at frequency w_f) and a key D frames back, it is worth

        mean_o sum_f |E q_f| |k_f| cos(w_f (D + o) + phase_f) + (E|q_f| - |E q_f|) |k_f|

    over offsets o = 1, 2, 4, ... up to `farthest` frames after the newest one; standardised over the pool in each head. Which channels are
    time's, and in which pairs, is asked of the backbone's rotation.

    Simplified: its means are calibrated offline and shipped with the model, here they are those of all clean passes so far; it shrinks the cache
    every 3 latents, as the policy does. Uncertain: whether queries of a world model, which turn with the camera, cluster as well.
    """

    farthest: Count = 128

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._sizes = torch.zeros_like(self._first)  # of the pair that each channel belongs to
        self._partner = torch.arange(geometry.head_dim, device=geometry.device)
        self._timely = torch.zeros(geometry.head_dim, dtype=torch.bool, device=geometry.device)

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        if site.clean and site.layer == 0 and not self._passes:
            self._timely, self._partner = time_pairs(site, q.shape[-1])
        super().look(q, k, site)

    def note(self, q: Tensor, layer: int) -> None:
        self._sizes[layer] += self._size(q).mean(0)

    def positions(self, site: Site) -> Float[Tensor, "n 3"]:
        assert site.positions is not None
        newest, times = site.positions[:, 0].max(), 2 ** torch.arange(self.farthest.bit_length(), device=site.positions.device)
        return torch.stack([newest + times, 0 * times, 0 * times], 1)

    def score(self, frames: tuple[int, ...], bank: KVBank) -> Float[Tensor, "l n h"]:
        page, mean = self.page(frames, bank), self.mean
        k, there = page.k.float(), page.present
        moving = torch.einsum("lbnhd,lhd->lnh", k, (mean @ self._turn) * self._timely)
        steady = (self._sizes / max(self._passes, 1) - self._size(mean)) * self._timely
        score = moving + torch.einsum("lbnhd,lhd->lnh", self._size(k), steady) / 2  # every pair has two channels
        weight = torch.ones_like(score) if there is None else there.to(score)  # absent rows take no part
        weight = weight / weight.sum(1, keepdim=True)
        score = score - (score * weight).sum(1, keepdim=True)
        return score / (score.square() * weight).sum(1, keepdim=True).sqrt().clamp(min=1e-12)

    def _size(self, x: Float[Tensor, "*r d"]) -> Float[Tensor, "*r d"]:
        return torch.hypot(x, x[..., self._partner])


def time_pairs(site: Site, width: int) -> tuple[Tensor, Tensor]:
    """Which channels time alone rotates, and the channel that each is paired with; a channel that nothing rotates is its own."""
    turned = []
    for axis in range(3):
        at = torch.zeros(1, 3, device=site.positions.device if site.positions is not None else None)
        at[0, axis] = 1.0
        turned.append((mean_turn(site, at, width) - torch.eye(width, device=at.device)).abs())
    moves = [t.amax(1) > 1e-6 for t in turned]
    partner = turned[0].fill_diagonal_(0).argmax(1)
    timely = moves[0] & ~moves[1] & ~moves[2]
    return timely, torch.where(timely, partner, torch.arange(width, device=partner.device))
