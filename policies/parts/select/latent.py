"""Order by what frames look like: pose-free."""

from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Natural, Side
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector, by_score


@dataclass
class LatentSelector(Selector):
    """LongLive-RAG (arXiv 2606.02553), its average-pool variant: one descriptor a frame, cosine to that of the last
    generated frame, best frame of a chunk; the `newest` banked frames come last, since they repeat the recent ones.

    The query is content that was just generated, not the pose to come, so that a cut or a fast turn is noticed a chunk
    late. The clean latents are pooled over `grid` x `grid` parts of the image. Simplified: the paper brings back 6 single frames, all at temporal position 0;
    here whole chunks come, as the policy stores and places them. Uncertain: the paper pools the
    whole frame (grid=1) and leaves out its 5 newest evicted frames; both are fields here, and a chunk of which one frame is among them counts whole.
    """

    grid: Side = 1
    newest: Natural = 3

    def reset(self, geometry: Geometry) -> None:
        self._size, self._columns = geometry.chunk, geometry.columns
        self._descriptors = ChunkTable()
        self._descriptors.reset()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        descriptor = described(kv, self._size, self.grid, self._columns)
        self._descriptors.put(chunk.index, descriptor)
        self._last = descriptor[-1]

    def forget(self, chunk: int) -> None:
        self._descriptors.forget(chunk)

    def order(self, chunk: Chunk, candidates: list[int], window: list[int]) -> list[int]:
        if not candidates:
            return []
        (past,) = self._descriptors.take(candidates)
        score = F.cosine_similarity(past, self._last, dim=-1).amax(1).double().round(decimals=6).tolist()
        fresh = max(candidates) - ceil(self.newest / self._size)
        return by_score([s - 2 * (c > fresh) for s, c in zip(score, candidates, strict=True)], candidates)


def described(kv: KV, frames: int, grid: int, columns: int) -> Float[Tensor, "f g"]:
    """The clean latents of a chunk's frames, pooled. columns: of the tokens, see `Geometry`. Raises ValueError where there are none, and for a grid on
    latents that are finer than the tokens, whose places a cache does not know."""
    if kv.latents is None:
        raise ValueError("latent descriptors: the chunk's K/V came without latents; pass them to `chunk_kv`")
    x, tokens = kv.latents.float().mean(0), kv.positions.shape[0] // frames
    if grid > 1 and x.shape[1] != tokens:
        raise ValueError(f"latent descriptors: grid={grid}, but a frame has {x.shape[1]} latents and {tokens} tokens; use grid=1")
    if grid > 1 and not columns:
        raise ValueError(f"latent descriptors: grid={grid}, but this backbone does not say where its tokens lie (Geometry.columns); use grid=1")
    return x.mean(1) if grid == 1 else pooled(x, columns, grid)


def pooled(x: Float[Tensor, "f s c"], columns: int, grid: int) -> Float[Tensor, "f g"]:
    """Means over the cells of a grid that spans the image, one after the other. By the tokens' places in the image, not by their coordinates: an
    azimuth jumps by a full turn somewhere. Tokens lie row by row."""
    at = torch.arange(x.shape[1], device=x.device)
    row, column = at // columns * grid // -(-x.shape[1] // columns), at % columns * grid // columns
    member = F.one_hot(row * grid + column, grid * grid).to(x.dtype)
    return torch.einsum("fsc,sg->fgc", x, member / member.sum(0).clamp(min=1)).flatten(1)
