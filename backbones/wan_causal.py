"""The causal Wan family as backbones: what Matrix-Game-2.0 and LingBot-World-Fast have in common."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Annotated, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backbones.checkpoints import Parts, put
from backbones.rope import rotate_adjacent, turn_by
from backbones.wan_attention import heads_each
from backbones.wan_network import Control, WanConfig, WanNetwork, angles
from harness.backbone import Backbone, KVSeam
from harness.datatypes import Chunk, Condition, Geometry
from harness.settings.ranges import Ge, Le
from harness.system.meters import free_bytes
from harness.trajectory import Trajectory

LATENT_CHANNELS = 16
CELL = 8  # pixels per latent cell
STRIDE = 4  # video frames per latent frame, the first excepted
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Precision = Literal["float32", "bfloat16"]
Sizes = Mapping[str, Annotated[int, Ge(1), Le(2**20)]]  # fields of WanConfig
MOST_LAYERS = 1000


class Codec(Protocol):
    """Pixels in [-1, 1] to normalised latents and back; `decode` goes on where its last call since `begin` ended.

    state, restore: where that is, as tensors and plain values that later calls do not change in place.
    """

    def begin(self) -> None: ...
    def state(self) -> list: ...
    def restore(self, state: list) -> None: ...
    def encode(self, pixels: Float[Tensor, "1 3 p y x"]) -> Float[Tensor, "1 16 f h w"]: ...
    def decode(self, latents: Float[Tensor, "1 16 f h w"]) -> Float[Tensor, "1 3 p y x"]: ...


@dataclass(frozen=True)
class Schedule:
    """Noise levels of the passes: the timestep that the network is told, and the sigmas that a sample is formed with.

    The reference of LingBot looks a timestep up twice in a table where several sigmas share one, so that the sigma of the
    x0 formula and that of re-noising differ.
    """

    timesteps: tuple[float, ...]
    sigma_x0: tuple[float, ...]
    sigma_renoise: tuple[float, ...]


def precision(name: str) -> torch.dtype:
    return DTYPES[name]


def checked(sizes: Mapping[str, int] | None, published: WanConfig) -> dict[str, int]:
    """Other sizes of a network than the published ones. Raises ValueError for what is no size, or no network."""
    sizes = dict(sizes or {})
    known = [f.name for f in fields(WanConfig) if f.type in (int, "int")]
    if unknown := sizes.keys() - set(known):
        raise ValueError(f"backbone.sizes has no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    dim, heads, layers = (sizes.get(name, getattr(published, name)) for name in ("dim", "heads", "layers"))
    if dim % heads or dim // heads % 2 or dim // heads < 6 or layers > MOST_LAYERS:
        raise ValueError(
            f"backbone.sizes: dim={dim}, heads={heads}, layers={layers}; heads must divide dim into an even number of channels, 6 or more, "
            f"and layers go up to {MOST_LAYERS}"
        )
    return sizes


def refuse_too_large(parts: Parts, dtype_of: Callable[[str], torch.dtype], device: torch.device) -> None:
    """Raise ValueError, with the numbers, for a network of which the device has no memory for what it is to hold."""
    count = sum(map(parts.numel, parts.whole))
    need, free = sum(parts.numel(name) * dtype_of(name).itemsize for name in parts.whole), free_bytes(device)
    if free is not None and need > free:
        raise ValueError(
            f"the network's {count:,} parameters take {need / 1e9:,.1f} GB, and {device} has {free / 1e9:,.1f} GB free; "
            "use another backbone.device, backbone.dtype=bfloat16, backbone.parallel=N to share it among N GPUs, or smaller backbone.sizes with weights=random"
        )


def fill_randomly(network: WanNetwork, device: torch.device, parts: Parts, seed: int = 0) -> None:
    """Give a network that was built on the meta device random weights: the published sizes without a checkpoint. What `parts` leaves out is
    drawn too, so that any number of ranks holds the same network.

    Matrices keep the scale of their input, gains are 1, so that activations stay finite at any depth.
    """
    rng = torch.Generator(device).manual_seed(seed)
    for name, parameter in parts.whole.items():
        value = torch.empty(parameter.shape, device=device, dtype=network.config.dtype_of(name))
        if parameter.ndim > 1:
            value.normal_(std=parameter[0].numel() ** -0.5, generator=rng)
        else:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
        index = parts.index(name)
        put(network, name, nn.Parameter(parts.held(name, value[index].clone() if index else value), requires_grad=False))


class WanBackbone(Backbone):
    """Chunks of 3 latent frames, few-step flow matching, an image condition in extra input channels.

    network: weights loaded, on its device; with 16 input channels it has no image condition. codec: the Wan VAE. size:
    pixels (y, x), multiples of 16. All state of a rollout (image condition, cross-attention K/V, decoder) starts at `begin`.
    """

    def __init__(self, network: WanNetwork, codec: Codec, schedule: Schedule, size: tuple[int, int], device: torch.device, chunk: int = 3) -> None:
        if size[0] % 16 or size[1] % 16:
            raise ValueError(f"backbone.size={list(size)}: the model works at multiples of 16 pixels; use {[n - n % 16 for n in size]}")
        config = network.config
        self.network, self.codec, self.schedule, self.size = network.eval().requires_grad_(False), codec, schedule, size
        self.timesteps, self.channels = schedule.timesteps, LATENT_CHANNELS
        self.grid = (size[0] // CELL, size[1] // CELL)  # latent cells; tokens are 2x2 of them
        tokens = self.grid[0] * self.grid[1] // 4
        ranks, heads = network.ranks, heads_each(config.heads, network.ranks)
        layout = Geometry(config.layers, heads, config.head_dim, tokens, chunk, STRIDE, config.dtype, device, self.grid[1] // 2)
        self.geometry = replace(layout, ranks=ranks, model_heads=config.heads)
        self._times: dict[float, tuple[Tensor, Tensor]] = {}

    @abstractmethod
    def context(self, trajectory: Trajectory) -> Float[Tensor, "1 n c"]:
        """Tokens of the prompt or the first image, for cross-attention."""

    @abstractmethod
    def control(self, trajectory: Trajectory, chunk: Chunk) -> tuple[Tensor, ...]:
        """What the blocks' controls need of a chunk, for all its passes."""

    @abstractmethod
    def controls(self, inputs: Sequence[Tensor]) -> list[Control]:
        """The controls of all blocks from the output of `control`."""

    def begin(self, trajectory: Trajectory) -> None:
        g = self.geometry
        self.codec.begin()
        self._cross = self.network.cross(self.context(trajectory).to(g.device))
        self._condition = self.image_condition(trajectory, self.latent_frames(trajectory))

    @property
    def state_bytes(self) -> int:
        decoder = sum(x.nbytes for x in self.codec.state() if isinstance(x, Tensor))  # of a streaming decoder: the newest frames of every convolution
        return self._cross.nbytes + self._condition.nbytes + decoder

    def state(self) -> dict:
        return {"cross": self._cross, "condition": self._condition, "decoder": self.codec.state()}

    def restore(self, state: dict) -> None:
        self._cross, self._condition = state["cross"], state["condition"]
        self.codec.restore(state["decoder"])

    def image_condition(self, trajectory: Trajectory, frames: int) -> Float[Tensor, "20 f y x"]:
        """Mask (ones in latent frame 0) and latents of the first image followed by zero frames, over so many latent frames; no channels
        for a network without an image condition. Called by all ranks alike."""
        if self.network.config.in_dim == LATENT_CHANNELS:
            return torch.empty(0, frames, *self.grid, device=self.geometry.device)
        image = trajectory.images[:1]
        if tuple(image.shape[-2:]) != self.size:
            raise ValueError(f"the first image is {tuple(image.shape[-2:])} pixels, the model works at {self.size}; set world.size={list(self.size)}")
        latents = self.geometry.ranks.first(self._encoded_image(image, frames).float())
        mask = torch.zeros(4, *latents.shape[1:])
        mask[:, 0] = 1
        return torch.cat([mask, latents.cpu()]).to(self.geometry.device)

    def _encoded_image(self, image: Float[Tensor, "1 3 y x"], frames: int) -> Float[Tensor, "16 f y x"]:
        pixels = torch.zeros(1, 3, STRIDE * (frames - 1) + 1, *self.size, device=self.geometry.device)
        pixels[0, :, 0] = 2 * image[0].to(pixels) - 1
        return self.codec.encode(pixels)[0]

    def latent_frames(self, trajectory: Trajectory) -> int:
        """Latent frames of a rollout: whole chunks only, and one at least (of a path that is led on from its first image)."""
        frames = (len(trajectory.c2w) - 1) // STRIDE + 1
        return max(self.geometry.chunk, frames - frames % self.geometry.chunk)

    def condition(self, trajectory: Trajectory, chunk: Chunk) -> Condition:
        g = self.geometry
        at = slice(chunk.start, chunk.start + g.chunk)
        if at.stop > self._condition.shape[1]:  # the path was led on; the encoder is causal, so the frames so far stay what they are
            self._condition = self.image_condition(trajectory, max(at.stop, 2 * self._condition.shape[1]))
        return Condition(self.positions(chunk.frames), (self._condition[None, :, at], *self.control(trajectory, chunk)))

    def positions(self, frames: Sequence[int]) -> Float[Tensor, "m 3"]:
        """(t, y, x) of the tokens of latent frames: the frame's index since the start, the token's row and column."""
        rows, cols = (torch.arange(n // 2, dtype=torch.float32) for n in self.grid)
        times = torch.tensor(list(frames), dtype=torch.float32)
        return torch.stack(torch.meshgrid(times, rows, cols, indexing="ij"), -1).flatten(0, 2).to(self.geometry.device)

    def rope(self, positions: Float[Tensor, "*l n 3"]) -> Callable[..., Tensor]:
        return partial(rotate_adjacent, turn=turn_by(angles(positions, self.geometry.head_dim)[..., None, :]))

    def flow(self, x: Float[Tensor, "b f s c"], t: float, condition: Condition, kv: KVSeam) -> Float[Tensor, "b f s c"]:
        """The network's output at the timestep `t` that it is told."""
        if t not in self._times:
            self._times[t] = self.network.time(t, self.geometry.device)
        latents = x.unflatten(2, self.grid).permute(0, 4, 1, 2, 3)
        inputs = torch.cat([latents.to(condition.inputs[0]), condition.inputs[0]], 1)
        out = self.network(inputs, self._times[t], self._cross, self.controls(condition.inputs[1:]), kv)
        return out.float().permute(0, 2, 3, 4, 1).flatten(2, 3)

    def denoise(self, x: Float[Tensor, "b f s c"], t: float, condition: Condition, kv: KVSeam) -> Float[Tensor, "b f s c"]:
        flow = self.flow(x, t, condition, kv)
        if t == 0:
            return x
        sigma = self.schedule.sigma_x0[self.timesteps.index(t)]
        return (x.double() - sigma * flow.double()).float()

    def renoise(self, x0: Tensor, t: float, noise: Tensor) -> Tensor:
        sigma = self.schedule.sigma_renoise[self.timesteps.index(t)]
        return (1 - sigma) * x0 + sigma * noise

    def noise(self, generator: torch.Generator) -> Float[Tensor, "1 f s c"]:
        g = self.geometry
        return torch.randn(1, g.chunk, self.grid[0] * self.grid[1], self.channels, generator=generator).to(g.device)

    def encode(self, frames: Float[Tensor, "p 3 y x"]) -> Float[Tensor, "f s c"]:
        """Called by all ranks alike; what rank 0 encodes is what all have."""
        return self.geometry.ranks.first(self._encoded(frames))

    def _encoded(self, frames: Float[Tensor, "p 3 y x"]) -> Float[Tensor, "f s c"]:
        if tuple(frames.shape[-2:]) != self.size:
            raise ValueError(f"frames are {tuple(frames.shape[-2:])} pixels, the model works at {self.size}; set world.size={list(self.size)}")
        pixels = (2 * frames.transpose(0, 1)[None] - 1).to(self.geometry.device)
        return self.codec.encode(pixels)[0].permute(1, 2, 3, 0).flatten(1, 2).float()

    def decode(self, latents: Float[Tensor, "f s c"]) -> Float[Tensor, "p 3 y x"]:
        pixels = self.codec.decode(latents.unflatten(1, self.grid).permute(3, 0, 1, 2)[None])
        return ((pixels[0].transpose(0, 1).float().cpu() + 1) / 2).clamp(0, 1)

    def roundtrip(self, frames: Float[Tensor, "p 3 y x"]) -> Float[Tensor, "p 3 y x"]:
        """For scores, which rank 0 alone computes."""
        latents, rollout = self._encoded(frames), self.codec.state()
        self.codec.begin()
        try:
            return self.decode(latents)
        finally:
            self.codec.restore(rollout)
