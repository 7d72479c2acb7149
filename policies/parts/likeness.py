"""How much two chunks show of each other: what decides whether a chunk is new to a bounded memory."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.worlds.poses import angle
from policies.parts.select.frustum import probes, sees
from policies.parts.select.latent import pooled


class Likeness(ABC):
    """Between 0 (nothing in common) and 1 (the same views). State starts at `reset`; a forgotten chunk leaves nothing behind.

    Of every frame the best match in the other chunk counts, averaged over frames; of the two directions the smaller one, so
    that a near view and the far view that contains it are not the same.
    """

    def reset(self, geometry: Geometry) -> None:
        self._known: dict[int, tuple[Tensor, ...]] = {}

    def observe(self, chunk: Chunk, kv: KV) -> None:
        """A chunk was generated; remember of it what comparing needs."""
        self._known[chunk.index] = self.describe(chunk, kv)

    def forget(self, chunk: int) -> None:
        self._known.pop(chunk, None)

    def to(self, chunk: int, others: list[int]) -> list[float]:
        """Likeness of a chunk to each of the others, to six digits, so that ties are ties."""
        values = []
        for other in others:
            here, there = self.between(self._known[chunk], self._known[other])
            values.append(round(min(here.amax(1).double().mean().item(), there.amax(0).double().mean().item()), 6))
        return values

    @abstractmethod
    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        """What is remembered of a chunk."""

    @abstractmethod
    def between(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Float[Tensor, "f g"], Float[Tensor, "f g"]]:
        """How much of each frame of `a` each frame of `b` shows, and the other direction."""


@dataclass
class ViewLikeness(Likeness):
    """Frustum overlap: the share of a view's probe points that the other view sees too (the points of the `fov` selector, see
    `policies.parts.select.frustum`). Walls hide nothing."""

    grid: int = 8
    shells: int = 4
    near: float = 0.5
    far: float = 8.0

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if min(self.grid, self.shells) < 1 or not 0 < self.near < self.far:
            numbers = f"grid={self.grid}, shells={self.shells}, near={self.near}, far={self.far}"
            raise ValueError(f"view likeness: {numbers}; use at least one point and 0 < near < far")

    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        return chunk.c2w, chunk.intrinsics

    def between(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return self._share(a, b), self._share(b, a).T

    def _share(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Float[Tensor, "f g"]:
        points = probes(a[0], a[1], self.grid, self.shells, self.near, self.far)  # f p 3
        return sees(points.flatten(0, 1), b[0], b[1], self.far).unflatten(1, points.shape[:2]).float().mean(-1).T


@dataclass
class PoseLikeness(Likeness):
    """exp(-(translation / metres + rotation / degrees)), for cameras of unknown intrinsics."""

    metres: float = 1.0
    degrees: float = 45.0

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if min(self.metres, self.degrees) <= 0:
            raise ValueError(f"pose likeness: metres={self.metres}, degrees={self.degrees}; both must be above 0")

    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        return (chunk.c2w,)

    def between(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        p, q = a[0][:, None], b[0][None]
        moved, turned = (p[..., :3, 3] - q[..., :3, 3]).norm(dim=-1), angle(p[..., :3, :3], q[..., :3, :3])
        like = (-moved / self.metres - turned / self.degrees).exp()
        return like, like


@dataclass
class LatentLikeness(Likeness):
    """Cosine of pooled content, for paths without poses: the first layer's values over `grid` x `grid` parts of the image, as
    the `latent` selector has it. What frames share in any case raises it, so thresholds lie nearer to 1."""

    grid: int = 2

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        if self.grid < 1:
            raise ValueError(f"latent likeness: grid={self.grid}; use 1 or more")

    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        values = kv.v[0].float().flatten(2).mean(0).unflatten(0, (len(chunk.frames), -1))
        return (pooled(values, kv.positions[: values.shape[1], 1:].to(values.device), self.grid),)

    def between(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        like = F.cosine_similarity(a[0][:, None], b[0][None], dim=-1).clamp(min=0)
        return like, like
