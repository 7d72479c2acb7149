"""The projections of an attention of the Wan transformer, and their norms, which run over the heads of all ranks."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harness.system.ranks import ALONE, Ranks

EPS = 1e-6


class RMSNorm(nn.Module):
    """Root-mean-square norm with a gain, over the full width of the model (before heads are split), of which this rank may
    have some channels only."""

    def __init__(self, width: int, channels: int, ranks: Ranks) -> None:
        super().__init__()
        self.width, self.ranks = width, ranks
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return normed((self, x))[0]


def normed(*pairs: tuple[RMSNorm, Float[Tensor, "b n c"]]) -> list[Float[Tensor, "b n c"]]:
    """What several norms make of tensors with as many rows: over ranks by one sum for all of them."""
    ranks = pairs[0][0].ranks
    if ranks.size == 1:
        return [F.rms_norm(x.float(), x.shape[-1:], eps=EPS).to(x.dtype) * norm.weight.to(x.dtype) for norm, x in pairs]
    squares = ranks.sum(torch.stack([x.float().square().sum(-1, keepdim=True) for _, x in pairs]))
    return [(x.float() * (total / norm.width + EPS).rsqrt()).to(x.dtype) * norm.weight.to(x.dtype) for (norm, x), total in zip(pairs, squares, strict=True)]


class Attention(nn.Module):
    """The four projections of an attention and its qk-norm; what they attend to is the caller's affair.

    Over ranks each has as many heads; where their number does not divide the model's, the last heads are zero.
    """

    def __init__(self, dim: int, heads: int, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.heads = heads_each(heads, ranks)
        inner = self.heads * ranks.size * (dim // heads)  # of all ranks: `wan_parallel` leaves each its part
        self.q, self.k, self.v = (nn.Linear(dim, inner) for _ in range(3))
        self.o = nn.Linear(inner, dim)
        self.norm_q, self.norm_k = (RMSNorm(dim, inner // ranks.size, ranks) for _ in range(2))

    def queries(self, x: Float[Tensor, "b n w"]) -> Float[Tensor, "b n h d"]:
        return self._split(self.norm_q(self.q(x)))

    def keys_values(self, x: Float[Tensor, "b n w"]) -> tuple[Float[Tensor, "b n h d"], Float[Tensor, "b n h d"]]:
        return self._split(self.norm_k(self.k(x))), self._split(self.v(x))

    def queries_keys_values(self, x: Float[Tensor, "b n w"]) -> tuple[Float[Tensor, "b n h d"], Float[Tensor, "b n h d"], Float[Tensor, "b n h d"]]:
        q, k = normed((self.norm_q, self.q(x)), (self.norm_k, self.k(x)))
        return self._split(q), self._split(k), self._split(self.v(x))

    def _split(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n h d"]:
        return x.unflatten(-1, (self.heads, -1))


def heads_each(heads: int, ranks: Ranks) -> int:
    """Heads of a rank: as many on each."""
    return -(-heads // ranks.size)
