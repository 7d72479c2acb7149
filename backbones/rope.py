"""Rotary position embedding over arbitrary coordinates (t, y, x), computed from positions: no table, no last frame."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def rotate(x: Float[Tensor, "*b n h d"], cos: Float[Tensor, "*a n 1 e"], sin: Float[Tensor, "*a n 1 e"]) -> Float[Tensor, "*b n h d"]:
    """Rotate channel pairs (i, i + d/2) of `x` by angles given as cosines and sines (e = d/2), in float32."""
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1).to(x.dtype)


def rotate_adjacent(x: Float[Tensor, "*b n h d"], turn: Complex[Tensor, "*a n 1 e"]) -> Float[Tensor, "*b n h d"]:
    """Rotate channel pairs (2i, 2i+1), the Wan family's layout, in float32: one complex product (e = d/2), four times as fast
    on a CPU as cosines and sines."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


def turn_by(angle: Float[Tensor, "*a n 1 e"]) -> Complex[Tensor, "*a n 1 e"]:
    """The factors of `rotate_adjacent`, from angles in float64."""
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
