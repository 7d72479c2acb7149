"""Selectors that need no view: the controls that every other selector has to beat, or cannot beat."""

from dataclasses import dataclass

import torch

from harness.datatypes import Chunk
from harness.settings.ranges import Seed
from policies.parts.select.base import Selector, by_score


@dataclass
class RandomSelector(Selector):
    """A random order, the same for the same seed and chunk."""

    seed: Seed = 0

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        g = torch.Generator().manual_seed(self.seed * 100_003 + chunk.index)
        return [candidates[i] for i in torch.randperm(len(candidates), generator=g).tolist()]


@dataclass
class RecencySelector(Selector):
    """Newest first: what a longer recent window would hold."""

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        return sorted(candidates, reverse=True)


@dataclass
class OracleSelector(Selector):
    """True co-visibility from the world's own geometry: what the best pose-based selector could know."""

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        overlap = chunk.overlap  # computed as it is read
        if overlap is None:
            raise ValueError("the oracle needs true co-visibility, which only worlds with geometry have; use world=rooms, world=houses or another selector")
        size = len(chunk.c2w)
        scores = [overlap[:, c * size : (c + 1) * size].amax(1).mean().item() for c in candidates]
        return by_score([round(s, 6) for s in scores], candidates)
