"""A page: the stored rows of a latent frame (or of a pool of frames) in all layers. Imports none of ours."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# A trailing `*h` is there when heads keep rows of their own, and absent when all heads of a layer keep the same.


@dataclass(frozen=True)
class Page:
    """Stored rows, the same number in every layer and head. k is rotated or raw, as the bank says.

    mass: how many original rows each row stands for; None means one. A row of mass 0 is absent: no store keeps its bytes and
    no attention sees it, which is how layers and heads come to hold different numbers of rows.
    """

    k: Float[Tensor, "l b n h d"]
    v: Float[Tensor, "l b n h d"]
    positions: Float[Tensor, "l n *h 3"]
    mass: Float[Tensor, "l n *h"] | None = None

    @property
    def rows(self) -> int:
        return self.k.shape[2]

    @property
    def nbytes(self) -> int:
        return self.k.nbytes + self.v.nbytes + (0 if self.mass is None else self.mass.nbytes)

    @property
    def present(self) -> Bool[Tensor, "l n h"] | None:
        """Which rows are there; None: all of them."""
        if self.mass is None or bool((self.mass > 0).all()):
            return None
        return _per_head(self.mass > 0, self.k.shape[3])

    def keep(self, rows: Int[Tensor, "l n *h"]) -> "Page":
        """The page with only `rows` of each layer, or of each head of each layer, in the given order.

        -1 fills up a layer or head that keeps fewer than the others: an absent row.
        """
        if bool((rows < 0).any()):
            return self.keep(rows.clamp(min=0)).only(rows >= 0)
        index = rows.to(self.k.device)
        if index.dim() == 2:  # whole rows: an order of magnitude faster than gathering number by number
            k, v = (torch.stack([x.index_select(1, i) for x, i in zip(whole, index, strict=True)]) for whole in (self.k, self.v))
        else:
            k, v = (torch.take_along_dim(x, index[:, None, :, :, None], 2) for x in (self.k, self.v))
        positions = self.positions if self.positions.dim() == 4 or rows.dim() == 2 else self.positions[:, :, None]
        at = rows.to(positions.device).reshape(*rows.shape, *[1] * (positions.dim() - rows.dim()))
        mass = None if self.mass is None else self._masses(rows).gather(1, self._like(rows.to(self.mass.device)))
        return Page(k, v, torch.take_along_dim(positions, at, 1), mass)

    def merge(self, rows: Int[Tensor, "l n *h"], into: Int[Tensor, "l m *h"]) -> "Page":
        """As `keep`, but no row is lost: row `i` joins kept row `into[i]`, whose value becomes the mean of its members,
        weighted by their masses, and whose mass their sum. Keys and positions are those of the kept rows."""
        mass = self._masses(into).to(self.v.device)
        here = self._like(into.to(self.v.device))
        total = mass.new_zeros(here.shape[0], rows.shape[1], *here.shape[2:]).scatter_add_(1, here, mass)
        weight = mass / total.gather(1, here).clamp(min=1)
        kept = self.keep(rows)
        values = torch.zeros_like(kept.v, dtype=torch.float32)
        index = here.reshape(len(here), 1, here.shape[1], -1, 1).expand(self.v.shape)
        values.scatter_add_(2, index, self.v.float() * weight.reshape(len(here), 1, here.shape[1], -1, 1))
        return Page(kept.k, values.to(self.v.dtype), kept.positions, total)

    def only(self, seen: Bool[Tensor, "l n *h"]) -> "Page":
        """The page with the other rows absent."""
        mass = self._masses(seen)
        return replace(self, mass=mass * self._like(seen.to(mass.device)))

    def _masses(self, like: Tensor) -> Float[Tensor, "l m *h"]:
        """The masses, a head's own where `like` or they themselves have heads."""
        mass = self.mass if self.mass is not None else torch.ones(self.k.shape[0], self.rows, device=self.k.device)
        return _per_head(mass, self.k.shape[3]) if like.dim() == 3 else mass

    def _like(self, index: Tensor) -> Tensor:
        """An index of rows with heads, if the masses have them."""
        return _per_head(index, self.k.shape[3]) if self.mass is not None and self.mass.dim() == 3 else index

    @staticmethod
    def taken(pages: "list[Page]", rows: Int[Tensor, "l n *h"]) -> "Page":
        """As `joined(pages).keep(rows)`, on the pages' one device. Where heads keep rows of their own and no row has a mass, only the rows that are kept
        are read; else the pages are joined first."""
        if len(pages) == 1:
            return pages[0].keep(rows)
        if rows.dim() == 2 or not rows.numel() or any(p.mass is not None or p.positions.dim() == 4 for p in pages):
            return Page.joined(pages).keep(rows)
        device = pages[0].k.device
        ends = torch.tensor([p.rows for p in pages]).cumsum(0).to(rows.device)
        kept = rows.clamp(min=0).flatten()
        owner = torch.bucketize(kept, ends, right=True)
        order = owner.argsort(stable=True)
        where = torch.unravel_index(order, rows.shape)  # layer, row, head
        within = kept[order] - (ends[owner[order]] - torch.tensor([p.rows for p in pages], device=rows.device)[owner[order]])
        layers, heads, within = where[0].to(device), where[2].to(device), within.to(device)
        counts = owner.bincount(minlength=len(pages)).tolist()
        parts = list(zip(pages, layers.split(counts), heads.split(counts), within.split(counts), strict=True))
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device)).to(device)

        def gathered(tensors: list[Tensor]) -> Tensor:
            return torch.cat(tensors).index_select(0, place.to(tensors[0].device)).unflatten(0, rows.shape)

        k, v = (gathered([getattr(p, name)[li, :, r, hi] for p, li, hi, r in parts if len(r)]) for name in ("k", "v"))  # l n h b d
        positions = gathered([p.positions[li.to(p.positions.device), r.to(p.positions.device)] for p, li, _, r in parts if len(r)])
        page = Page(k.permute(0, 3, 1, 2, 4).contiguous(), v.permute(0, 3, 1, 2, 4).contiguous(), positions)
        return page.only(rows >= 0) if bool((rows < 0).any()) else page

    @staticmethod
    def joined(pages: "list[Page]") -> "Page":
        """One page with the rows of several, in order."""
        k, v = (torch.cat([getattr(p, name) for p in pages], 2) for name in ("k", "v"))
        positions = [p.positions for p in pages]
        if any(p.dim() == 4 for p in positions):
            positions = [p if p.dim() == 4 else p[:, :, None].expand(-1, -1, k.shape[3], -1) for p in positions]
        mass = None
        if any(p.mass is not None for p in pages):
            masses = [p.mass if p.mass is not None else torch.ones(p.k.shape[0], p.rows, device=p.k.device) for p in pages]
            heads = any(m.dim() == 3 for m in masses)
            mass = torch.cat([_per_head(m, k.shape[3]) if heads else m for m in masses], 1)
        return Page(k, v, torch.cat(positions, 1), mass)


def rotated(
    k: Float[Tensor, "l b n h d"], positions: Float[Tensor, "l n *h 3"], rope: Callable[[Float[Tensor, "*l n 3"]], Callable[..., Tensor]]
) -> Float[Tensor, "l b n h d"]:
    """Raw keys with RoPE at `positions`."""
    if positions.dim() == 3:
        return rope(positions[:, None])(k)
    own = rope(positions.transpose(1, 2)[:, None])  # heads hold rows of their own: each is rotated by its own positions
    return own(k.transpose(2, 3)[..., None, :])[..., 0, :].transpose(2, 3)


def _per_head(x: Tensor, heads: int) -> Tensor:
    """`l n` or `l n h` as `l n h`."""
    return x if x.dim() == 3 else x[..., None].expand(-1, -1, heads)
