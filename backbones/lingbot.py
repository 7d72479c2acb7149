"""LingBot-World-Fast: the causal Wan transformer, steered by camera poses (and keys) that modulate every block."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.checkpoints import files_at, load_into, read_config
from backbones.codecs import PreviewCodec
from backbones.sources import LINGBOT_WORLD_FAST, require
from backbones.wan_causal import CELL, Codec, Precision, Schedule, Sizes, WanBackbone, checked, fill_randomly, precision, refuse_too_large
from backbones.wan_network import Control, WanConfig, WanNetwork, fold
from backbones.wan_parallel import built, codec_of, shared_tokens
from harness.datatypes import Chunk
from harness.settings.ranges import Count, Device, Ge, Le, Len, Positive, Size
from harness.system.devices import chosen_device
from harness.system.ranks import ALONE, Ranks, joined
from harness.trajectory import Trajectory
from harness.worlds.poses import rays, steps

RAY_CHANNELS = {"cam": 6, "act": 7}  # origin and direction of a pixel's ray; direction and the four keys
TEXT_LENGTH = 512
NAMES = {"dim": "dim", "num_heads": "heads", "num_layers": "layers", "ffn_dim": "ffn", "text_dim": "context_dim"}  # config.json's and ours
PUBLISHED = WanConfig(5120, 40, 40, 13824, 4096, control="after_self")
INDICES = (0, 179, 358, 679)  # of the 1,000 steps
FOLDER = "checkpoints/lingbot_world_fast"  # where weights=null looks
FILES = ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl", "lingbot_world_fast")


class LingBotNetwork(WanNetwork):
    """The network with its camera modules, by the names of the checkpoint."""

    SPLIT = WanNetwork.SPLIT | {
        "c2ws_hidden_states_layer1": "columns",
        "c2ws_hidden_states_layer2": "rows",
        "blocks.*.cam_injector_layer1": "columns",
        "blocks.*.cam_injector_layer2": "rows",
        "blocks.*.cam_s*_layer": "gathered",
    }

    def __init__(self, config: WanConfig, channels: int, ranks: Ranks = ALONE) -> None:
        super().__init__(config, ranks)
        dim = config.dim
        self.patch_embedding_wancamctrl = nn.Linear(channels * CELL * CELL * 4, dim)
        self.c2ws_hidden_states_layer1, self.c2ws_hidden_states_layer2 = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for block in self.blocks:
            for name in ("cam_injector_layer1", "cam_injector_layer2", "cam_scale_layer", "cam_shift_layer"):
                block.add_module(name, nn.Linear(dim, dim))

    def camera(self, rays: Float[Tensor, "b c f y x"]) -> tuple[Float[Tensor, "l b m w"], Float[Tensor, "l b m w"]]:
        """Scale and shift of every block's tokens. They depend on the chunk's poses alone: once a chunk, not once a pass."""
        p = self.patch_embedding_wancamctrl(fold(rays).to(self.config.dtype))
        c = p + self.c2ws_hidden_states_layer2(F.silu(self.c2ws_hidden_states_layer1(p)))
        scales, shifts = [], []
        for block in self.blocks:
            h = c + block.cam_injector_layer2(F.silu(block.cam_injector_layer1(c)))  # pyright: ignore
            scales.append(block.cam_scale_layer(h))  # pyright: ignore
            shifts.append(block.cam_shift_layer(h))  # pyright: ignore
        return torch.stack(scales), torch.stack(shifts)


class LingBotBackbone(WanBackbone):
    """variant: cam (poses) or act (view directions and WASD). prompts: a prompt to text tokens before their padding."""

    def __init__(
        self,
        network: LingBotNetwork,
        codec: Codec,
        prompts: Callable[[str], Float[Tensor, "n c"]],
        schedule: Schedule,
        size: tuple[int, int],
        device: torch.device,
        variant: str = "cam",
        text_length: int = TEXT_LENGTH,
        chunk: int = 3,
    ) -> None:
        super().__init__(network, codec, schedule, size, device, chunk)
        self.prompts, self.variant, self.text_length = prompts, variant, text_length
        self.camera = network.camera

    def context(self, trajectory: Trajectory) -> Float[Tensor, "1 n c"]:
        """Padded with zeros, which cross-attention sees like any token."""
        tokens = self.prompts(trajectory.prompt)[: self.text_length]
        return F.pad(tokens, (0, 0, 0, self.text_length - len(tokens)))[None]

    def control(self, trajectory: Trajectory, chunk: Chunk) -> tuple[Tensor, Tensor]:
        at = slice(chunk.start, chunk.start + self.geometry.chunk)
        return self.camera(self.ray_maps(trajectory, at)[None].to(self.geometry.device))

    def controls(self, inputs: Sequence[Tensor]) -> list[Control]:
        return [partial(_modulate, scale=a, shift=b) for a, b in zip(*inputs, strict=True)]

    def ray_maps(self, trajectory: Trajectory, at: slice = slice(None)) -> Float[Tensor, "c f y x"]:
        """Rays of every pixel in latent cells, for latent frames `at` of a rollout (channels: ray, then row and column in the cell).

        A frame's pose is relative to the frame before it (frame 0: itself), and the largest step of the rollout is 1 long:
        the scale of a world needs its whole path.
        """
        frames = self.latent_frames(trajectory)
        scale = self.size[0] / trajectory.images.shape[-2]
        c2w = steps(trajectory.c2w[:: self.geometry.stride_px][:frames])
        longest = c2w[:, :3, 3].norm(dim=-1).max()
        if longest > 0:
            c2w[:, :3, 3] /= longest
        c2w = c2w[at]
        origin, direction = rays(c2w, trajectory.intrinsics[:1].expand(len(c2w), 4), self.size, scale)
        direction = F.normalize(direction, dim=-1)
        if self.variant == "cam":
            maps = torch.cat([origin[:, None].expand_as(direction), direction], -1)
        else:
            keys = trajectory.actions[:: self.geometry.stride_px, :4][:frames][at]
            maps = torch.cat([direction, keys[:, None].expand(-1, direction.shape[1], -1)], -1)
        cells = maps.unflatten(1, (self.grid[0], CELL, self.grid[1], CELL)).permute(5, 2, 4, 0, 1, 3)  # c, row, column, f, y, x
        return cells.flatten(0, 2)


def load(
    weights: str | None,
    variant: Literal["cam", "act"] = "cam",
    size: Size = (480, 832),
    shift: Positive = 10.0,
    indices: Annotated[Sequence[Annotated[int, Ge(0), Le(999)]], Len(1, 1000)] = INDICES,
    chunk: Annotated[Count, Le(1000)] = 3,
    device: Device = "auto",
    dtype: Precision = "bfloat16",
    sizes: Sizes | None = None,
    parallel: Count = 1,
) -> LingBotBackbone:
    """The backbone from a checkpoint folder (see `checkpoints.LINGBOT_WORLD_FAST`), or at any size with weights=random.

    shift and indices: of the noise schedule; chunk: latent frames (LingBot-World 2: indices 0 250 500 750, chunk 4).
    Sizes are the published ones, unless the checkpoint's config.json (which some downloads lack) says otherwise.
    sizes: other sizes still (fields of `WanConfig`), for measurements. parallel: processes that share a rollout.
    Raises FileNotFoundError with the download commands, or ValueError for files of another model.
    """
    folder = Path(weights or FOLDER)
    if weights != "random":
        require(folder, FILES, LINGBOT_WORLD_FAST)
        published = {theirs: getattr(PUBLISHED, ours) for theirs, ours in NAMES.items()}
        told = read_config(folder / "lingbot_world_fast", published)
        sizes = {NAMES[name]: int(value) for name, value in told.items()} | dict(sizes or {})
    where, config = chosen_device(device), replace(PUBLISHED, dtype=precision(dtype), **checked(sizes, PUBLISHED))
    ranks = joined(parallel)
    network, parts = built(partial(LingBotNetwork, config, RAY_CHANNELS[variant]), ranks, where)
    refuse_too_large(parts, config.dtype_of, where)
    if weights == "random":
        fill_randomly(network, where, parts)
        tokens = torch.randn(64, config.context_dim, generator=torch.Generator().manual_seed(0))
        codec, prompts = codec_of(PreviewCodec, ranks), lambda prompt: tokens
    else:
        from backbones.wan_encoders import TextEncoder
        from backbones.wan_vae import WanVAE

        load_into(network, folder / "lingbot_world_fast", device=where, dtype_of=config.dtype_of, parts=parts)
        codec = codec_of(lambda: WanVAE.from_checkpoint(folder / "Wan2.1_VAE.pth", where), ranks)

        def encoded(prompt: str) -> Tensor:  # 11 GB: there for a new prompt only
            with TextEncoder.from_checkpoint(folder / "models_t5_umt5-xxl-enc-bf16.pth", folder / "google" / "umt5-xxl", where) as encoder:
                return encoder.encode(prompt)

        prompts = cache(lambda prompt: shared_tokens(partial(encoded, prompt), ranks, where))

    return LingBotBackbone(network, codec, prompts, schedule(shift, indices), (size[0], size[1]), where, variant, chunk=chunk)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return (1 + scale.to(x.dtype)) * x + shift.to(x.dtype)


def schedule(shift: float = 10.0, indices: Sequence[int] = INDICES) -> Schedule:
    """Sigmas `shift * u / (1 + (shift - 1) * u)` for u falling evenly from 0.999 (in float32) over 1,000 steps.

    Timesteps are floored to integers, and at high noise several steps share one. The reference then looks sigmas up by
    timestep: the first of equals for the x0 formula, the second of equals (or the only one) to re-noise.
    """
    u = np.linspace(float(np.float32(1 - 1 / 1000)), 0.0, 1001)[:-1]
    sigma = shift * u / (1 + (shift - 1) * u)
    integer = (1000 * sigma).astype(np.int64)
    sigma = sigma.astype(np.float32)
    equals = [np.flatnonzero(integer == integer[i]) for i in indices]
    return Schedule(
        tuple(float(integer[i]) for i in indices),
        tuple(float(sigma[e[0]]) for e in equals),
        tuple(float(sigma[e[1] if len(e) > 1 else e[0]]) for e in equals),
    )


weight_files = files_at(FOLDER)
