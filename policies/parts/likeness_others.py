"""Likenesses for worlds without intrinsics or without poses."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Positive, Side
from harness.worlds.poses import distances
from policies.parts.likeness import Likeness
from policies.parts.select.latent import described


@dataclass
class PoseLikeness(Likeness):
    """exp(-(translation / metres + rotation / degrees)), for cameras of unknown intrinsics."""

    metres: Positive = 1.0
    degrees: Positive = 45.0

    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        return (chunk.c2w,)

    def shares(self, one: list[Tensor], others: list[Tensor]) -> Tensor:
        moved, turned = distances(one[0], others[0].flatten(0, 1))  # f (n g)
        return (-moved / self.metres - turned / self.degrees).exp().unflatten(1, others[0].shape[:2]).transpose(0, 1)


@dataclass
class LatentLikeness(Likeness):
    """Cosine of pooled content, for paths without poses: the clean latents over `grid` x `grid` parts of the image, as
    the `latent` selector has it. What frames share in any case raises it, so thresholds lie nearer to 1."""

    grid: Side = 2

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._columns = geometry.columns

    def describe(self, chunk: Chunk, kv: KV) -> tuple[Tensor, ...]:
        return (described(kv, len(chunk.frames), self.grid, self._columns),)

    def shares(self, one: list[Tensor], others: list[Tensor]) -> Tensor:
        return F.cosine_similarity(one[0][:, None], others[0][:, None], dim=-1).clamp(min=0)
