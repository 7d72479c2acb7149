"""Rotary position embedding over arbitrary coordinates (t, y, x), computed from positions: no table, no last frame."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(x: Float[Tensor, "*b n h d"], angles: Float[Tensor, "*a n 1|h d/2"]) -> Float[Tensor, "*b n h d"]:  # noqa: F722, F821
    """Rotate channel pairs (i, i + d/2) of `x` by `angles` (radians), in float32."""
    first, second = x.float().chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)
