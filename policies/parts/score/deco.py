"""Score tokens by how much denoising changed its mind about them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Natural
from policies.parts.score.born import BornScorer


@dataclass
class DecoScorer(BornScorer):
    """Our reading of DecoPrune (arXiv 2609.39096): tokens whose intermediate clean prediction x0 differs from the final one
    stay.

        worth of a token = |x0 of pass `step` - final x0|

    over its channels (and its latents, where a token covers several). The choice is the same for all layers and heads.

    Chunks that are given have no passes: they run them once more, each from the given latents under its noise, and this costs time.
    Uncertain: which pass is compared (the first here), the distance, whether a chunk is pruned to a share when it is done or, as here, all of the past
    together to a budget.
    """

    step: Natural = 0
    rehearses = True  # without annotation: not a field

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self._owner: Tensor | None = None

    def worth(self, chunk: Chunk, kv: KV) -> Float[Tensor, "f s"]:
        if kv.guesses is None or kv.latents is None:
            raise ValueError(f"deco scorer: the K/V of chunk {chunk.index} came without what its passes predicted; give `chunk_kv` latents and guesses")
        if self.step >= len(kv.guesses) - 1:
            raise ValueError(f"deco scorer: step={self.step}, but of {len(kv.guesses)} passes only those before the last differ from the result; use less")
        squares = (kv.guesses[self.step].float() - kv.latents.float()).square().sum(-1).mean(0)  # f s
        if squares.shape[1] == self._geometry.tokens:
            return squares.sqrt()
        if self._owner is None:
            self._owner = owners(squares.shape[1], self._geometry).to(squares.device)
        return squares.new_zeros(len(squares), self._geometry.tokens).index_add_(1, self._owner, squares).sqrt()


def owners(latents: int, g: Geometry) -> Int[Tensor, "s"]:
    """The token that each latent of a frame belongs to, where a token is a square of them. Raises ValueError where nobody knows how they lie."""
    side = round((latents / g.tokens) ** 0.5)
    if not g.columns or side * side * g.tokens != latents:
        raise ValueError(f"deco scorer: {latents} latents a frame for {g.tokens} tokens in {g.columns or 'unknown'} columns are no squares; use another scorer")
    y, x = torch.arange(latents) // (g.columns * side), torch.arange(latents) % (g.columns * side)
    return y // side * g.columns + x // side
