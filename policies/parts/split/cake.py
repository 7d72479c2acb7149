"""Layers whose attention is spread and moves get more of the budget."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from harness.cache.attention import weights
from harness.datatypes import Geometry, Site
from harness.settings.ranges import Ge
from policies.parts.score.mass import past_only
from policies.parts.split.base import Split

Temperature = Annotated[float, Ge(0.05)]  # below, powers overflow


@dataclass
class CakeSplit(Split):
    """CAKE (arXiv 2503.12491): a layer's preference is dispersion^(1/tau_dispersion) * shift^(1/tau_shift).

    Of the clean pass, over the past alone (the chunk's own rows take no part in the softmax), averaged over heads: dispersion = the
    entropy of a query's attention, averaged over queries; shift = sum over rows of the variance, over the chunk's frames, of the
    attention that the row receives of a frame's queries. Preferences are averaged over the chunks so far (CAKE's prefill is one
    pass over a prompt); the budget is shared out anew at every chunk, and a layer that loses rows cannot get them back, as in
    CAKE's cascade.
    Uncertain: both exponents (tuned for each model there); the variance there is over the last window of query tokens, here
    over frames, so that only time moves.
    """

    needs_attention_scores = True  # without annotation: not a field
    tau_dispersion: Temperature = 1.0
    tau_shift: Temperature = 1.0

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._frames, self._geometry = geometry.chunk, geometry
        self._preference = torch.zeros(geometry.layers, dtype=torch.float64, device=geometry.device)

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        if not site.clean:
            return
        spread, means = [], []
        bias = past_only(k, site, self._frames)
        if site.context_rows == 0:
            return
        for part in q.chunk(self._frames, 1):
            entropy, mass = 0.0, 0.0
            for w in weights(part, k, bias, site.groups):
                entropy = entropy - w.xlogy(w).sum((0, 2, 3))
                mass = mass + w.sum((0, 2))
            calls = q.shape[0] * part.shape[1]
            spread.append(entropy / calls)
            means.append(mass / calls)
        each = torch.stack([torch.stack(spread).mean(0), torch.stack(means).var(0, correction=0).sum(1)])  # dispersion and shift of every head
        dispersion, shift = self._geometry.mean_over_heads(each, 1)
        self._preference[site.layer] += dispersion ** (1 / self.tau_dispersion) * shift ** (1 / self.tau_shift)

    def weights(self) -> list[float]:
        return self._preference.tolist()
