"""Codecs: the form in which a store keeps pages. What stays in the window, recent frames and sink included, is exact; of policies that
move rows (`raw_keys`), a page whose position changes is read from the store again, sink and recent ones too."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.cache.page import Page
from harness.settings.ranges import Count

TINY = 2.0**-24  # the smallest float16: a scale is never zero


@dataclass(frozen=True)
class Packed:
    """A page as a codec wrote it: the parts of its keys and of its values, and what it takes to read them again."""

    k: tuple[Tensor, ...]
    v: tuple[Tensor, ...]
    positions: Float[Tensor, "l n *h 3"]
    dtype: torch.dtype
    mass: Float[Tensor, "l n *h"] | None = None
    present: Bool[Tensor, "l n h"] | None = None  # where rows are absent: those that the parts hold, in this order

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, scales and masses included. Positions are bookkeeping (a frame and a place in its grid, the same
        for all heads), unless heads keep rows of their own; then they count."""
        own = self.positions.nbytes if self.positions.dim() == 4 else 0
        marks = 0 if self.present is None else self.present.nbytes
        return sum(x.nbytes for x in (*self.k, *self.v)) + (0 if self.mass is None else self.mass.nbytes) + own + marks

    def map(self, move: Callable[[Tensor], Tensor]) -> "Packed":
        """With its bytes elsewhere; positions and masses stay, being few."""
        return Packed(tuple(map(move, self.k)), tuple(map(move, self.v)), self.positions, self.dtype, self.mass, self.present)

    def to(self, device: torch.device) -> "Packed":
        """All of it on a device, without waiting."""
        whole = self.map(lambda x: x.to(device, non_blocking=True))
        few = {name: x.to(device) for name in ("positions", "mass", "present") if (x := getattr(self, name)) is not None}
        return replace(whole, **few)


class Codec(ABC):
    """Rows are coded one by one, so that any of them can be kept or dropped later. A codec has no state."""

    def pack(self, page: Page) -> Packed:
        present = page.present
        k, v = (x if present is None else x.permute(0, 2, 3, 1, 4)[present] for x in (page.k, page.v))
        return Packed(self.encode(k), self.encode(v), page.positions, page.k.dtype, page.mass, present)

    def unpack(self, packed: Packed) -> Page:
        k, v = (self.decode(parts, packed.dtype) for parts in (packed.k, packed.v))
        if packed.present is not None:
            k, v = (_spread(x, packed.present.to(x.device)) for x in (k, v))
        return Page(k, v, packed.positions, packed.mass)

    @abstractmethod
    def encode(self, x: Float[Tensor, "*r d"]) -> tuple[Tensor, ...]:
        """`l b n h d`, or, where rows are absent, the present ones as `r b d`."""

    @abstractmethod
    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Float[Tensor, "*r d"]: ...


def _spread(rows: Float[Tensor, "r b d"], present: Bool[Tensor, "l n h"]) -> Float[Tensor, "l b n h d"]:
    """Present rows at their places, zeros elsewhere."""
    whole = rows.new_zeros((*present.shape, *rows.shape[1:]))
    whole[present] = rows
    return whole.permute(0, 3, 1, 2, 4)


class Exact(Codec):
    """Pages as they are."""

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        return parts[0]


class Bf16(Codec):
    """bfloat16: for a model that computes in float32, the precision at which published ones keep their K/V.

    No number is wrong by more than 2^-8 of itself."""

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x.to(torch.bfloat16),)

    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        return parts[0].to(dtype)


class Int8(Codec):
    """8 bits a number and a float16 scale for each head of a token: its largest number is 127.

    No number is wrong by more than 0.57 / 127 of the largest in its head (half a step, and the scale's rounding).
    """

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.float()
        scale = (x.abs().amax(-1, keepdim=True) / 127).clamp(min=TINY).half()
        return (x / scale.float()).round().clamp(-127, 127).to(torch.int8), scale

    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        return (parts[0].float() * parts[1].float()).to(dtype)


class Fp8(Codec):
    """float8 (e4m3) and a float16 scale for each head of a token: its largest number is 448.

    No number is wrong by more than 1/16 of itself plus 2^-10 / 448 of the largest in its head: finer than int8 where
    numbers are small, coarser where they are large. Raises ValueError where PyTorch cannot make the type.
    """

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        x = x.float()
        scale = (x.abs().amax(-1, keepdim=True) / 448).clamp(min=TINY).half()
        try:
            coded = (x / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(f"codec fp8: PyTorch {torch.__version__} has no float8_e4m3fn on {x.device}; use store/codec=int8") from error
        return coded.view(torch.uint8), scale

    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        return (parts[0].view(torch.float8_e4m3fn).float() * parts[1].float()).to(dtype)


@dataclass
class Int4(Codec):
    """4 bits a number, two in a byte, and a float16 least number and step for every `group` channels of a token's head
    (of the whole head where that is smaller).

    No number is wrong by more than half a step, a step being 1/15 of the group's range, and 2^-10 of its largest.
    """

    group: Count = 32

    def encode(self, x: Tensor) -> tuple[Tensor, ...]:
        group = min(self.group, x.shape[-1])
        if group < 1 or x.shape[-1] % group or x.shape[-1] % 2:
            raise ValueError(f"codec int4: groups of {self.group} do not divide a head of {x.shape[-1]} channels; choose a divisor of an even number")
        x = x.float().unflatten(-1, (-1, group))
        low = x.amin(-1, keepdim=True).half()
        step = ((x.amax(-1, keepdim=True) - low.float()) / 15).clamp(min=TINY).half()
        codes = ((x - low.float()) / step.float()).round().clamp(0, 15).to(torch.uint8).flatten(-2)
        return codes[..., ::2] | codes[..., 1::2] << 4, low, step

    def decode(self, parts: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
        packed, low, step = parts
        codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2).unflatten(-1, (low.shape[-2], -1))
        return (low.float() + codes.float() * step.float()).flatten(-2).to(dtype)
