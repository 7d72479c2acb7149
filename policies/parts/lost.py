"""What heads have lost, as one row."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from harness.cache.page import Page
from harness.datatypes import Geometry


@dataclass
class Lost:
    """Sums of the rows that were cut from heads, in float32. fresh: whether some were since the last `beside`."""

    def reset(self, geometry: Geometry) -> None:
        g = geometry
        self._rows, self.fresh = g.tokens, False
        self._count = torch.zeros(g.layers, g.heads, device=g.device)
        self._k, self._v = (torch.zeros(g.layers, 1, g.heads, g.head_dim, device=g.device) for _ in range(2))

    def take(self, page: Page, heads: Bool[Tensor, "l h"]) -> None:
        """These heads lose the rows of a page; those that they do not have any more count no second time."""
        mass = torch.ones(page.k.shape[0], page.rows, device=page.k.device) if page.mass is None else page.mass.to(page.k.device)
        weight = (mass if mass.dim() == 3 else mass[..., None]) * heads[:, None]  # l n h
        self._count += weight.sum(1)
        self._k = self._k + torch.einsum("lbnhd,lnh->lbhd", page.k.float(), weight)
        self._v = self._v + torch.einsum("lbnhd,lnh->lbhd", page.v.float(), weight)
        self.fresh = True

    def beside(self, page: Page) -> Page:
        """A whole frame's page with one row more: the mean of what each head lost, whose mass is its number; absent where nothing was."""
        self.fresh = False
        count = self._count.clamp(min=1)[:, None, :, None]
        k, v = (torch.cat([own[:, :, : self._rows], (x / count).to(own.dtype)[:, :, None]], 2) for own, x in ((page.k, self._k), (page.v, self._v)))
        mass = torch.cat([self._count.new_ones(len(k), self._rows, k.shape[3]), self._count[:, None]], 1)
        return Page(k, v, torch.cat([page.positions[:, : self._rows], page.positions[:, :1]], 1), mass)
