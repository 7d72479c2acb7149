"""Selectors that need no view: the controls that every other selector has to beat, or cannot beat."""

from collections.abc import Iterator
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
        g = torch.Generator().manual_seed((self.seed * 100_003 + chunk.index) % 2**63)
        return [candidates[i] for i in torch.randperm(len(candidates), generator=g).tolist()]


@dataclass
class RecencySelector(Selector):
    """Newest first: what a longer recent window would hold."""

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        return sorted(candidates, reverse=True)


@dataclass
class OracleSelector(Selector):
    """Greedy coverage of the true surface: at each place in the order the chunk that adds the most surface points which the window does
    not show yet, occlusion included. What the best selector could know of geometry; greedy covers at least 1 - 1/e of what the best
    set of as many chunks does (Nemhauser, Wolsey and Fisher, 1978). Once nothing is added, the most co-visible come first.

    It bounds coverage and not quality: the model need not make the most of what it is shown. Its plans are slow (true co-visibility is computed for each:
    0.04 s at 40 chunks, 0.11 s at 200 on a CPU core, a tenth of the passes and more), so an oracle's speed says nothing.
    """

    sees_truth = True

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> Iterator[int]:
        surface, overlap = chunk.surface, chunk.overlap  # computed as they are read
        if surface is None or overlap is None:
            raise ValueError("the oracle needs true co-visibility, which only worlds with geometry have; use world=rooms, world=houses or another selector")
        size = len(chunk.c2w)
        shown = {c: surface[:, :, c * size : (c + 1) * size].any(2).flatten() for c in candidates}
        missing = ~surface[:, :, window].any(2).flatten()
        rest = by_score([round(overlap[:, c * size : (c + 1) * size].amax(1).mean().item(), 6) for c in candidates], candidates)
        while rest:
            gains = [int((shown[c] & missing).sum()) for c in rest]
            best = rest.pop(gains.index(max(gains)))
            missing &= ~shown[best]
            yield best
