"""Score rows by the attention that they receive."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.cache.attention import received, weights
from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry, Site
from harness.settings.ranges import Natural, Rule, Share
from policies.parts.score.base import Scorer

POOLS = {"mean": F.avg_pool1d, "max": F.max_pool1d}
Pool = Literal["mean", "max"]
Kernel = Annotated[int, Rule(lambda n: n >= 1 and n % 2 == 1, "an odd whole number from 1")]


@dataclass
class MassScorer(Scorer):
    """score = pool_kernel(mass), mass <- decay * mass + share, where `share` is what a row received of attention, averaged
    over the queries of a chunk's clean pass. `l n h`; every head by itself.

    - decay 1, kernel 1: H2O (arXiv 2306.14048), attention accumulated since the row was made; old rows have an advantage.
    - decay 0, mean over 5 neighbours: SnapKV (arXiv 2404.14469; kernel as in kvpress), the last window of queries votes.
    - decay 0, mean over 5 neighbours, spread 200: CAKE's eviction score (arXiv 2503.12491): share + spread * the variance of a row's
      weight over the queries.
    - decay 0, kernel 1: participative compression (Deep Forcing, arXiv 2512.05081), the queries of the newest frames vote.

    queries: how many of the chunk's queries vote, evenly spaced; 0, and more than there are: all. own: whether the chunk's own rows take part in the
    softmax. Uncertain: CAKE's weight of 200, which its released script is given and which ports of it default to. These methods look at every decoded
    token or at the end of a prompt; a chunk's noisy passes are not looked at here. Neighbours are those in the pool (raster order, time after time),
    which after pruning need not be neighbours in the picture; SnapKV's window of 64 queries is the whole chunk unless `queries` says otherwise.
    Deep Forcing's queries are those of the 4 newest latent frames, here those of the newest chunk.
    """

    decay: Share = 0.0
    kernel: Kernel = 1
    pool: Pool = "mean"
    queries: Natural = 0
    own: bool = True
    spread: float = 0.0

    def reset(self, geometry: Geometry) -> None:
        self._layers, self._size = geometry.layers, geometry.chunk
        self._mass: dict[int, Tensor] = {}  # frame -> l n h
        self._shares: dict[int, Tensor] = {}  # layer -> h n, in the order of the window

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        if not site.clean:
            return
        bias = site.bias if self.own else past_only(k, site, self._size)
        self._slots = site.slots
        if not self.own and not site.context_rows:  # nothing is past yet: no row receives anything
            self._shares[site.layer] = k.new_zeros(k.shape[2], k.shape[1], dtype=torch.float32)
            return
        chosen = torch.linspace(0, q.shape[1] - 1, min(self.queries or q.shape[1], q.shape[1]), device=q.device).long()
        self._shares[site.layer] = self._share(q[:, chosen], k, bias, site)

    def _share(self, q: Tensor, k: Tensor, bias: Tensor | None, site: Site) -> Float[Tensor, "h n"]:
        if not self.spread:
            return received(q, k, bias, site.groups)
        count, first, second = q.shape[0] * q.shape[1], 0.0, 0.0
        for w in weights(q, k, bias, site.groups):
            first, second = first + w.sum((0, 2)), second + w.square().sum((0, 2))
        mean = first / count
        return mean + self.spread * (second / count - mean.square()).clamp(min=0)

    def observe(self, chunk: Chunk, kv: KV) -> None:
        shares = torch.stack([self._shares[layer] for layer in range(self._layers)]).transpose(1, 2)
        for frame, at in self._slots.items():
            new = shares[:, torch.from_numpy(at)]
            self._mass[frame] = new + self.decay * self._mass[frame] if frame in self._mass else new

    def score(self, frames: tuple[int, ...], bank: KVBank) -> Float[Tensor, "l n h"]:
        mass = torch.cat([self._mass[f] for f in frames], 1)
        return POOLS[self.pool](mass.transpose(1, 2), self.kernel, 1, self.kernel // 2).transpose(1, 2)

    def keep(self, frames: tuple[int, ...], rows: Tensor) -> None:
        mass = torch.cat([self._mass.pop(f) for f in frames], 1)
        rows = rows.to(mass.device)
        self._mass[frames[0]] = mass.gather(1, rows.clamp(min=0)).masked_fill(rows < 0, 0)


def past_only(k: Float[Tensor, "b n h d"], site: Site, size: int) -> Float[Tensor, "*h n"]:
    """A call's bias with the chunk's own rows shut."""
    bias = k.new_zeros(k.shape[1], dtype=torch.float32) if site.bias is None else site.bias.clone()
    if not site.slots:
        bias[..., site.context_rows :] = -torch.inf
    for frame, at in site.slots.items():
        if frame >= site.chunk * size:
            bias[..., torch.from_numpy(at)] = -torch.inf
    return bias
