"""The whole past, most of it at a coarser resolution."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import KV, Chunk, Geometry, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Natural, Side

FAR = 3.0  # positions of one pool that are farther apart than this are angles on both sides of a full turn


@dataclass
class CoarsePolicy(CachePolicy):
    """RELIC's compressed history (arXiv 2512.04040) at one factor: every frame that is neither sink nor recent is kept, as the means of
    its raw keys and values over squares of `side` x `side` tokens. Every chunk attends to all of it.

    A mean stands for as many rows as it was made of: log(count) is added to its logit, so that pooling equal rows changes nothing. Its
    position is the mean of theirs; where they lie on both sides of a full turn (angles, in radians) the first one's. Tokens are taken
    to be square, and images centred on their principal point, which gives the grid. The number of tokens grows with the rollout, by
    1 / side^2 of what `full` has.

    Simplified: RELIC interleaves factors of 1, 2 and 4 and FramePack (arXiv 2504.12626) lets them grow with age; here there is one.
    Both were trained for it; without its arm (`trained_compressed`) this is the training-free twin.
    """

    sink: Natural = 3
    recent: Natural = 3
    side: Side = 2
    raw_keys = True
    rewritable = False

    def reset(self, geometry: Geometry) -> None:
        self._tokens, self._next = geometry.tokens, self.sink  # the oldest frame that is not pooled yet

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames(bank.frames)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        while self._next <= chunk.frames[-1] - self.recent:
            bank.write(self._next, pooled(bank.page(self._next), squares(self._tokens, chunk.intrinsics[0], self.side)))
            self._next += 1


def squares(tokens: int, intrinsics: Float[Tensor, "4"], side: int) -> Int[Tensor, "n"]:
    """Which square of the grid each token of a frame lies in; those at the right and lower ends may be smaller."""
    _, _, cx, cy = intrinsics.tolist()
    rows = max(1, round((tokens * cy / cx) ** 0.5))
    if tokens % rows:
        raise ValueError(f"coarse: {tokens} tokens a frame are no grid of square tokens in an image of {2 * cx:g} by {2 * cy:g} pixels; use another policy")
    columns = tokens // rows
    across = -(-columns // side)
    return (torch.arange(rows)[:, None] // side * across + torch.arange(columns)[None] // side).flatten()


def pooled(page: Page, pool: Int[Tensor, "n"]) -> Page:
    """The page whose rows are the means of those that have the same number in `pool`."""
    at = pool.to(page.k.device)
    count = torch.bincount(at)
    k, v = (_means(x.float(), at, 2).to(x.dtype) for x in (page.k, page.v))
    where, here = page.positions.float(), at.to(page.positions.device)
    first = torch.stack([(here == i).nonzero()[0, 0] for i in range(len(count))])
    spread = (where - where[:, first[here]]).abs() > FAR
    apart = torch.zeros(where.shape[0], len(count), 3, device=where.device).index_add_(1, here, spread.float()) > 0
    positions = torch.where(apart, where[:, first], _means(where, here, 1))
    return Page(k, v, positions.to(page.positions.dtype), count.float().expand(page.k.shape[0], -1).contiguous())


def _means(x: Tensor, pool: Int[Tensor, "n"], dim: int) -> Tensor:
    """Sums over the pool, divided by its size: exact where all are equal and the size is a power of 2."""
    count = torch.bincount(pool)
    shape = list(x.shape)
    shape[dim] = len(count)
    return x.new_zeros(shape).index_add_(dim, pool, x) / count.view([-1 if i == dim else 1 for i in range(x.dim())])
