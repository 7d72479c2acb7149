"""A memory of points for the `rooms` network: past frames, warped by depth into the view of the chunk to come."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from backbones.codecs import ConvCodec, Residual
from backbones.rooms_memory import Memory
from backbones.warp import enlarged, points_of, splat
from harness.datatypes import Chunk
from harness.trajectory import Trajectory

FINE = 4  # depths a token along each axis
NEAREST, FARTHEST = 0.1, 40.0  # metres


class DepthHead(nn.Module):
    """Depth along the optical axis from a codec's latents, `FINE` x `FINE` values a token, in metres."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), Residual(width), Residual(width), nn.Conv2d(width, FINE * FINE, 1), nn.PixelShuffle(FINE)
        )

    def forward(self, latents: Float[Tensor, "n c y x"]) -> Float[Tensor, "n v u"]:
        """Rooms are some 2 metres deep: that is what a head says before it has learned."""
        return (self.layers(latents)[:, 0].float() + math.log(2.0)).clamp(math.log(NEAREST), math.log(FARTHEST)).exp()


class _Past(NamedTuple):
    """What is remembered of past frames. frames: 8 bits a colour. c2w: relative to the rollout's first pose."""

    frames: UInt8[Tensor, "n 3 y x"]
    depth: Float[Tensor, "n v u"]
    c2w: Float[Tensor, "n 4 4"]
    intrinsics: Float[Tensor, "n 4"]


class GeometryMemory(Memory):
    """Frames of the past as points: what they show is warped into the views of the chunk to come, and the codec's latents of that picture,
    with the share of every token that any point fell into, are added to the embedding through a layer that starts at zero.

    Kept are the decoded frames (8 bits a colour), their depth and their poses. true_depth: depth is asked of the world instead, an oracle.
    Simplified: all frames are warped, none are chosen; holes are grey, and the codec was not trained on such pictures.
    """

    remembers = True
    repeatable = False  # a second clean pass would add the chunk's points a second time

    def __init__(self, channels: int, width: int, grid: tuple[int, int], depth_width: int = 48, true_depth: bool = False) -> None:
        super().__init__()
        self.depth = DepthHead(channels, depth_width).requires_grad_(False)
        self.warped = nn.Linear(channels + 1, width, bias=False)
        nn.init.zeros_(self.warped.weight)
        self._grid, self._size, self._true_depth = grid, (grid[0] * 8, grid[1] * 8), true_depth
        self._past: _Past | None = None

    def begin(self) -> None:
        self._past = None

    def look(self, codec: ConvCodec, trajectory: Trajectory, chunk: Chunk, c2w: Float[Tensor, "f 4 4"]) -> tuple[Tensor, ...]:
        c2w, intrinsics = c2w.to(self.device), chunk.intrinsics.to(self.device)
        seen = self._seen(codec, self._past, c2w, intrinsics)
        return (self.warped(seen)[None], c2w, intrinsics, *([self._truth(trajectory, chunk)] if self._true_depth else []))

    def keep(self, codec: ConvCodec, x0: Float[Tensor, "1 f s c"], inputs: tuple[Tensor, ...]) -> None:
        latents = x0[0].float().transpose(1, 2).unflatten(2, self._grid)
        _, c2w, intrinsics, *truth = inputs
        new = _Past(_bytes(codec.decode(latents)), (truth[0] if truth else self.depth(latents)).half(), c2w, intrinsics)
        self._past = _Past(*(torch.cat(parts) for parts in zip(self._past, new, strict=True))) if self._past else new

    @torch.no_grad()
    def _seen(self, codec: ConvCodec, past: "_Past | None", c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Float[Tensor, "f s c"]:
        """Latents of what the past shows of these views, and the share of each token that it shows."""
        if past is None or not len(past.frames):
            return torch.zeros(len(c2w), self._grid[0] * self._grid[1], self.warped.in_features, device=self.device)
        points = points_of(enlarged(past.depth.float(), self._size), past.c2w, past.intrinsics).flatten(0, 1)
        picture, covered = splat(points, past.frames.float().div(255).permute(0, 2, 3, 1).reshape(-1, 3), c2w, intrinsics, self._size)
        share = F.avg_pool2d(covered.float()[:, None], 8).flatten(2).transpose(1, 2)
        return torch.cat([codec.encode(picture).float().flatten(2).transpose(1, 2) * share, share], -1)

    def forced(
        self, codec: ConvCodec, past: Float[Tensor, "b g s c"], c2w: Float[Tensor, "b f 4 4"], intrinsics: Float[Tensor, "b f 4"]
    ) -> Float[Tensor, "b f s w"]:
        """As `look`, with predicted depth."""
        b, f = c2w.shape[:2]
        chunk = f - past.shape[1]
        with torch.no_grad(), torch.autocast(past.device.type, enabled=False):
            latents = past.float().flatten(0, 1).transpose(1, 2).unflatten(2, self._grid)
            frames, depth = (x.unflatten(0, (b, -1)) for x in (_bytes(codec.decode(latents)), self.depth(latents).half()))
            seen = [
                self._seen(codec, _Past(*(x[clip, :start] for x in (frames, depth, c2w, intrinsics))), c2w[clip, some], intrinsics[clip, some])
                for clip in range(b)
                for start in range(0, f, chunk)
                for some in (slice(start, start + chunk),)
            ]
        return self.warped(torch.cat(seen)).unflatten(0, (b, f))

    def _truth(self, trajectory: Trajectory, chunk: Chunk) -> Float[Tensor, "f y x"]:
        if trajectory.overlap is None:
            unknown = f"{trajectory.name}: this world does not know the true depth that the arm oracle_geometry asks for"
            raise ValueError(f"{unknown}; use policy=trained_geometry, or world=rooms or houses")
        return trajectory.overlap.depth(chunk.frames, self._size).to(self.device)

    def state(self) -> dict[str, Tensor]:
        return self._past._asdict() if self._past else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._past = _Past(**{k: x.to(self.device) for k, x in state.items()}) if state else None


def _bytes(images: Float[Tensor, "n 3 y x"]) -> Tensor:
    return (images.clamp(0, 1) * 255).round().byte()
