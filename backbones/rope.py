"""Rotary position embedding over arbitrary coordinates (t, y, x), computed from positions: no table, no last frame."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor


def rotate(
    x: Float[Tensor, "*b n h d"], cos: Float[Tensor, "*a n 1 e"], sin: Float[Tensor, "*a n 1 e"], out: Float[Tensor, "*b n h d"] | None = None
) -> Float[Tensor, "*b n h d"]:
    """Rotate channel pairs (i, i + d/2) of `x` by angles given as cosines and sines (e = d/2), in float32. out: where to."""
    first, second = x.float().chunk(2, -1)
    turned = torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
    return turned.to(x.dtype) if out is None else out.copy_(turned)


def rotate_adjacent(x: Float[Tensor, "*b n h d"], turn: Complex[Tensor, "*a n 1 e"], out: Float[Tensor, "*b n h d"] | None = None) -> Float[Tensor, "*b n h d"]:
    """Rotate channel pairs (2i, 2i+1), the Wan family's layout, in float32: one complex product (e = d/2), four times as fast
    on a CPU as cosines and sines. out: where to; in float32 the product is written there and nothing is copied."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    if out is not None and out.dtype == torch.float32:
        torch.mul(pairs, turn, out=torch.view_as_complex(out.unflatten(-1, (-1, 2))))
        return out
    turned = torch.view_as_real(pairs * turn).flatten(-2)
    return turned.to(x.dtype) if out is None else out.copy_(turned)


def turn_by(angle: Float[Tensor, "*a n 1 e"]) -> Complex[Tensor, "*a n 1 e"]:
    """The factors of `rotate_adjacent`, from angles in float64."""
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
