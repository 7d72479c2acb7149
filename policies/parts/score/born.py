"""Scores that a row is born with."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Seed
from policies.parts.score.base import Scorer


@dataclass
class BornScorer(Scorer):
    """A token's worth is fixed when its chunk is made, and the same in all layers and heads."""

    def reset(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._worth: dict[int, Tensor] = {}  # frame -> l n h

    @abstractmethod
    def worth(self, chunk: Chunk, kv: KV) -> Float[Tensor, "f s"]:
        """Of the chunk's tokens."""

    def observe(self, chunk: Chunk, kv: KV) -> None:
        g = self._geometry
        for frame, worth in zip(chunk.frames, self.worth(chunk, kv).float().to(g.device), strict=True):
            self._worth[frame] = worth[None, :, None].expand(g.layers, -1, g.heads)

    def score(self, frames: tuple[int, ...], bank: KVBank) -> Float[Tensor, "l n h"]:
        return torch.cat([self._worth[f] for f in frames], 1)

    def keep(self, frames: tuple[int, ...], rows: Int[Tensor, "l n h"]) -> None:
        worth = torch.cat([self._worth.pop(f) for f in frames], 1)
        self._worth[frames[0]] = worth.gather(1, rows.to(worth.device).clamp(min=0))


@dataclass
class RandomScorer(BornScorer):
    """The control: a random worth, by seed and frame."""

    seed: Seed = 0

    def worth(self, chunk: Chunk, kv: KV) -> Tensor:
        rngs = [torch.Generator().manual_seed((self.seed * 100_003 + frame) % 2**63) for frame in chunk.frames]
        return torch.stack([torch.rand(self._geometry.tokens, generator=rng) for rng in rngs])
