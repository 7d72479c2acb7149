"""Scores from what queries are like on average, turned to where the next ones will stand: no attention map is looked at."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import Geometry, Site
from policies.parts.score.base import Scorer


@dataclass
class FutureScorer(Scorer):
    """Means over the un-rotated queries of all clean passes so far, head by head, and the mean rotation of the positions to come. Keys are
    those of the bank, rotated where they were made."""

    rotated_keys = True  # without annotation: not a field

    def reset(self, geometry: Geometry) -> None:
        g = geometry
        self._chunk, self._passes = g.chunk, 0
        self._first = torch.zeros(g.layers, g.heads, g.head_dim, device=g.device)
        self._turn = torch.eye(g.head_dim, device=g.device)

    @abstractmethod
    def positions(self, site: Site) -> Float[Tensor, "n 3"]:
        """Where queries are expected after the chunk of this call."""

    @abstractmethod
    def note(self, q: Float[Tensor, "r h d"], layer: int) -> None:
        """Un-rotated queries of a clean pass, in float32."""

    def look(self, q: Tensor, k: Tensor, site: Site) -> None:
        if not site.clean:
            return
        if site.raw_q is None or site.rope is None or site.positions is None:
            raise ValueError("future scorers: an attention call came without un-rotated queries, their positions and the rotation; give `Site` all three")
        raw = site.raw_q.flatten(0, 1).float()
        self._first[site.layer] += raw.mean(0)
        self.note(raw, site.layer)
        if site.layer == 0:
            self._passes += 1
            self._turn = mean_turn(site, self.positions(site), q.shape[-1])

    @property
    def mean(self) -> Float[Tensor, "l h d"]:
        """The mean query, before RoPE."""
        return self._first / max(self._passes, 1)

    def page(self, frames: tuple[int, ...], bank: KVBank) -> Page:
        """The concatenated rows of frames; read from the bank, and counted as moved."""
        return Page.joined([bank.page(f) for f in frames])

    def keep(self, frames: tuple[int, ...], rows: Int[Tensor, "l n h"]) -> None:
        """Nothing is remembered of single rows."""


def mean_turn(site: Site, positions: Float[Tensor, "n 3"], width: int) -> Float[Tensor, "d d"]:
    """What becomes of each unit vector (rows) at these positions, on average: x @ it is the mean of x's rotations."""
    assert site.rope is not None
    units = torch.eye(width, device=positions.device)[:, None, None].expand(-1, len(positions), 1, -1)
    return site.rope(positions)(units)[:, :, 0].mean(1)
