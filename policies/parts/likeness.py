"""How much two chunks show of each other: what decides whether a chunk is new to a bounded memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Positive, Side
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.lazily import SLACK
from policies.parts.select.probe_points import blocks, frustums, may_see, probes, sees


class Likeness(ABC):
    """Between 0 (nothing in common) and 1 (the same views). State starts at `reset`; a forgotten chunk leaves nothing behind.

    Of every frame the best match in the other chunk counts, averaged over frames; of the two directions the smaller one, so
    that a near view and the far view that contains it are not the same.
    """

    def reset(self, geometry: Geometry) -> None:
        self._known = ChunkTable()
        self._known.reset()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        """A chunk was generated; remember of it what comparing needs."""
        self._known.put(chunk.index, *self.describe(chunk, kv))

    def forget(self, chunk: int) -> None:
        self._known.forget(chunk)

    def to(self, chunk: int, others: list[int], above: float = -1.0) -> list[float]:
        """Likeness of a chunk to each of the others, to six digits, so that ties are ties. Where it cannot exceed `above`, something that
        is no less, and no more than `above`, may stand for it."""
        if not others:
            return []
        one, known = [x[0] for x in self._known.take([chunk])], self._known.take(others)
        here = self.most(one, known)
        close = (here > above).nonzero()[:, 0]
        here[close] = self.shares(one, [x[close] for x in known]).amax(2).double().mean(1)
        close = close[here[close] > above]
        here[close] = here[close].minimum(self.back(one, [x[close] for x in known]).amax(1).double().mean(1))
        return here.round(decimals=6).tolist()

    @abstractmethod
    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        """What is remembered of a chunk."""

    @abstractmethod
    def shares(self, one: list[Tensor], others: list[Tensor]) -> Float[Tensor, "n f g"]:
        """How much of each frame `f` of a chunk each frame `g` of `n` others shows, from 0 to 1."""

    def most(self, one: list[Tensor], others: list[Tensor]) -> Float[Tensor, "n"]:
        """What the likeness to each of the others does not exceed, where that is known for less than the likeness itself."""
        return torch.ones(len(others[0]), dtype=torch.float64, device=others[0].device)

    def back(self, one: list[Tensor], others: list[Tensor]) -> Float[Tensor, "n f g"]:
        """How much of each frame `g` of the others each frame `f` of the chunk shows."""
        return self.shares(one, others)


@dataclass
class ViewLikeness(Likeness):
    """Frustum overlap: the share of a view's probe points that the other view sees too (the points of the `fov` selector, see
    `policies.parts.select.frustum`). Walls hide nothing."""

    grid: Side = 8
    shells: Side = 4
    near: Positive = 0.5
    far: Positive = 8.0

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if self.near >= self.far:
            raise ValueError(f"view likeness: near={self.near}, far={self.far}; near must be below far")

    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        return chunk.c2w, chunk.intrinsics, frustums(chunk.c2w, chunk.intrinsics, self.far)

    def shares(self, one: list[Tensor], others: list[Tensor]) -> Tensor:
        share = self._share(one, [x.flatten(0, 1) for x in others])  # f (n g)
        return share.unflatten(1, others[0].shape[:2]).transpose(0, 1)

    def most(self, one: list[Tensor], others: list[Tensor]) -> Tensor:
        possible = may_see(self._probes(*one[:2]), others[2].flatten(0, 1), self.grid, self.shells, self.far)  # (n g) (f b)
        sizes = torch.from_numpy(np.bincount(blocks(self.grid, self.shells)[1])).float()
        share = possible.view(-1, len(sizes)).float() @ (sizes / sizes.sum())
        return share.view(*others[0].shape[:2], len(one[0])).amax(1).double().mean(1) + SLACK

    def back(self, one: list[Tensor], others: list[Tensor]) -> Tensor:
        share = self._share([x.flatten(0, 1) for x in others], one)  # (n g) f
        return share.unflatten(0, others[0].shape[:2]).transpose(1, 2)

    def _share(self, a: list[Tensor], b: list[Tensor]) -> Float[Tensor, "f g"]:
        points = self._probes(*a[:2])  # f p 3
        return sees(points.flatten(0, 1), b[2]).unflatten(1, points.shape[:2]).float().mean(-1).T

    def _probes(self, c2w: Tensor, intrinsics: Tensor) -> Float[Tensor, "f p 3"]:
        return probes(c2w, intrinsics, self.grid, self.shells, self.near, self.far)
