"""The denoiser of the `rooms` backbone: a causal diffusion transformer of the Wan family's shape, small enough for a CPU.

AdaLN time conditioning, qk-norm, GELU feed-forward, rays injected in every block. Attention over the past goes through
the `kv` callable (the seam of the harness), which takes un-rotated q and k; the network never sees a cache.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

KVSeam = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # (layer, q, k, v), each b n h d -> b n h d
RAY_FEATURES = 23
DIRECTION, ORIGIN = slice(0, 3), slice(6, 9)  # among them
TIME_FREQUENCIES = (0.6, 0.2, 0.06, 0.02)  # radians a frame: slow, so that times beyond the trained span stay readable
ELEVATION_FREQUENCIES = (2.0, 4.0, 9.0, 18.0)
AZIMUTH_FREQUENCIES = (1.0, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0, 19.0)  # integers: a full turn comes back to the same phase


def ray_angles(positions: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 16"]:
    """RoPE angles of positions (frame, elevation, azimuth in radians) for a head dim of 32."""
    axes = (TIME_FREQUENCIES, ELEVATION_FREQUENCIES, AZIMUTH_FREQUENCIES)
    parts = [positions[..., i, None] * positions.new_tensor(axis) for i, axis in enumerate(axes)]
    return torch.cat(parts, -1)


def ray_features(origin: Float[Tensor, "f 3"], direction: Float[Tensor, "f s 3"]) -> Float[Tensor, "f s 23"]:
    """Pluecker coordinates (unit direction, moment), the origin, the place in the image and a Fourier code of the moment."""
    unit = F.normalize(direction, dim=-1)
    o = origin[:, None].expand_as(unit)
    moment = torch.linalg.cross(o, unit, dim=-1)
    place = torch.linspace(-1, 1, unit.shape[1], device=unit.device)[None, :, None].expand(len(unit), -1, 1)
    wave = math.pi * torch.cat([moment, 2 * moment], -1)
    cosine = (unit * F.normalize(unit.mean(1, keepdim=True), dim=-1)).sum(-1, keepdim=True)
    return torch.cat([unit, moment, o, place, cosine, wave.sin(), wave.cos()], -1)


def ray_positions(times: Float[Tensor, "f"], direction: Float[Tensor, "f s 3"]) -> Float[Tensor, "f s 3"]:
    """RoPE positions (frame, elevation, azimuth): the direction of a token's ray in the world, in radians."""
    x, y, z = direction.unbind(-1)
    elevation = torch.atan2(-y, torch.hypot(x, z))
    return torch.stack([times[:, None].expand_as(x), elevation, torch.atan2(x, z)], -1)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension with a learned gain."""

    def __init__(self, width: int, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((width,), gain))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.gain, 1e-6)


class Block(nn.Module):
    """Attention through the seam, then the feed-forward; both modulated by the noise level."""

    def __init__(self, layer: int, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.layer, self.heads = layer, heads
        self.table = nn.Parameter(torch.zeros(6, width))
        self.rays = nn.Linear(RAY_FEATURES, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, mlp * width), nn.Linear(mlp * width, width)
        # a gain above 1 lets attention be sharp from the start: finding one place again is what it is for
        self.norm_q, self.norm_k = RMSNorm(width // heads, 1.5), RMSNorm(width // heads, 1.5)

    def forward(self, x: Float[Tensor, "b f s w"], time: Float[Tensor, "b f 6 w"], rays: Tensor, kv: KVSeam) -> Tensor:
        q, k, v, modulation = self.before(x, time, rays)
        return self.after(x, kv(self.layer, q, k, v), modulation)

    def before(self, x: Tensor, time: Tensor, rays: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """q, k and v of the chunk's tokens, b n h d, and what is left of the modulation."""
        b, f, s, w = x.shape
        shift_a, scale_a, *rest = (time + self.table)[:, :, None].unbind(3)
        h = F.layer_norm(x, (w,)) * (1 + scale_a) + shift_a + self.rays(rays)
        q, k, v = self.qkv(h).view(b, f * s, 3, self.heads, -1).unbind(2)
        return self.norm_q(q), self.norm_k(k), v, tuple(rest)

    def after(self, x: Tensor, o: Tensor, modulation: tuple[Tensor, ...]) -> Tensor:
        """The block's output from what attention brought, o: b n h d."""
        gate_a, shift_f, scale_f, gate_f = modulation
        x = x + gate_a * self.out(o.reshape(x.shape))
        h = F.layer_norm(x, x.shape[-1:]) * (1 + scale_f) + shift_f
        return x + gate_f * self.down(F.gelu(self.up(h), approximate="tanh"))


class CompiledBlock(nn.Module):
    """A block whose two halves are compiled; the seam between them is Python that no compiler need look into. All layers share
    the code that the first one makes."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        self._before, self._after = torch.compile(block.before, dynamic=False), torch.compile(block.after, dynamic=False)

    def forward(self, x: Tensor, time: Tensor, rays: Tensor, kv: KVSeam) -> Tensor:
        q, k, v, modulation = self._before(x, time, rays)
        return self._after(x, kv(self.block.layer, q, k, v), modulation)


class RoomsNetwork(nn.Module):
    """Predicts clean latents x0 from noisy ones.

    latents: b f s c, s = tokens a frame. noise: b f, the level of every frame in [0, 1] (0 for a clean frame).
    rays: b f s 23. kv: the seam. extra: b f s w, added to the embedding. Returns x0, b f s c.
    """

    def __init__(self, channels: int, width: int, layers: int, heads: int, mlp: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Linear(channels + RAY_FEATURES, width)
        self.place = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(i, width, heads, mlp) for i in range(layers))
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, channels)
        for block in self.blocks:
            nn.init.normal_(block.table[[2, 5]], std=0.02)
            with torch.no_grad():
                block.table[[2, 5]] = 0.3  # gates start open, but small
        for layer in (self.modulation, self.head_modulation, self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def compile_blocks(self) -> None:
        """For inference: the first chunk then waits some seconds for the compiler. Weights are loaded before."""
        self.blocks = nn.ModuleList(CompiledBlock(block) for block in self.blocks)

    def forward(self, latents: Tensor, noise: Tensor, rays: Tensor, kv: KVSeam, extra: Tensor | None = None) -> Tensor:
        wave = noise[..., None] * torch.exp(torch.arange(32, device=noise.device) * (math.log(1000.0) / 31))
        time = self.time(torch.cat([wave.cos(), wave.sin()], -1).to(latents.dtype))
        modulation = self.modulation(time).unflatten(-1, (6, -1))
        x = self.embed(torch.cat([latents, rays], -1)) + self.place
        if extra is not None:
            x = x + extra
        for block in self.blocks:
            x = block(x, modulation, rays, kv)
        shift, scale = self.head_modulation(time)[:, :, None].chunk(2, -1)
        return self.head(F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift)
