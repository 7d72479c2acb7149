"""Vectors whose channels are those of all heads of the model, of which this rank may hold some: lengths and products."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.system.ranks import Ranks

EPS = 1e-12


def length(x: Float[Tensor, "*n c"], ranks: Ranks) -> Float[Tensor, "*n 1"]:
    own = x.norm(dim=-1, keepdim=True)
    return own if ranks.size == 1 else ranks.sum(own.square()).sqrt()


def unit(x: Float[Tensor, "*n c"], ranks: Ranks) -> Float[Tensor, "*n c"]:
    """Of length 1, as `F.normalize` does it."""
    return F.normalize(x, dim=-1) if ranks.size == 1 else x / length(x, ranks).clamp(min=EPS)


def own_channels(planes: Float[Tensor, "w p"], channels: int, ranks: Ranks) -> Float[Tensor, "c p"]:
    """Of something that is told channel by channel, the `channels` of this rank; zero beyond the last."""
    if ranks.size == 1:
        return planes
    own = planes[ranks.rank * channels : (ranks.rank + 1) * channels]
    return torch.cat([own, own.new_zeros(channels - len(own), planes.shape[1])])
