"""Keys, values and latents of a replay: noise, or the latents of a rollout that was saved."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import KV, Geometry
from harness.snapshot.snapshot import check_same_path, find_snapshot, read_state
from harness.trajectory import Trajectory


def sizes(chunk: int, stride: int, tokens: int) -> Geometry:
    """The smallest network with chunks of such a size: replays look at frames, not at what a network makes of them."""
    return Geometry(1, 1, 2, tokens, chunk, stride)


@dataclass(frozen=True)
class Content:
    """What a policy is handed at `commit`. rows: noise, the same for every chunk. latents: of the whole rollout, where there was one."""

    geometry: Geometry
    rows: Float[Tensor, "3 l b m h d"]
    positions: Float[Tensor, "m 3"]
    latents: Float[Tensor, "f s c"] | None = None

    def of(self, chunk: int) -> KV:
        """K/V of a chunk."""
        size = self.geometry.chunk
        latents = None if self.latents is None else self.latents[None, chunk * size : (chunk + 1) * size]
        k, raw, v = self.rows
        return KV(k, raw, v, self.positions + torch.tensor([chunk * size, 0.0, 0.0]), latents)

    @property
    def chunks(self) -> int | None:
        """As many as were recorded; None: any number."""
        return None if self.latents is None else len(self.latents) // self.geometry.chunk


def noise(g: Geometry, aspect: float = 1.0) -> Content:
    """Content that says nothing. aspect: rows over columns of an image, for the places of its tokens."""
    rows = torch.randn(3, g.layers, 1, g.chunk * g.tokens, g.heads, g.head_dim, generator=torch.Generator().manual_seed(0))
    high = max(1, round((g.tokens * aspect) ** 0.5))
    wide = -(-g.tokens // high)
    place = torch.arange(g.tokens)
    one = torch.stack([torch.zeros(g.tokens), (place // wide).float(), (place % wide).float()], 1)
    positions = torch.cat([one + torch.tensor([float(i), 0.0, 0.0]) for i in range(g.chunk)])
    return Content(g, rows, positions)


def recorded(folder: Path, path: Trajectory) -> Content:
    """The content of a trajectory's snapshot. Raises ValueError where there is none, where it is damaged or of another path."""
    at = find_snapshot(folder, path.name, "recorded", "save one with harness/run.py snapshot.save")
    about, state = read_state(at)
    check_same_path(at, state["path"], path)
    g, latents = about["geometry"], state["latents"]
    content = noise(sizes(g["chunk"], g["stride_px"], g["tokens"]), path.images.shape[-2] / path.images.shape[-1])
    return Content(content.geometry, content.rows, content.positions, latents.float())
