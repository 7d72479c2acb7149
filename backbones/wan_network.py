"""The causal Wan transformer that Matrix-Game-2.0, LingBot-World-Fast and Self-Forcing's Wan share.

Self-attention over the past goes through the `kv` callable (the seam of the harness), so the network never sees a cache.
Module names are those of the official checkpoints, where a model's controls add their own modules to the blocks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.wan_attention import EPS, Attention
from harness.backbone import KVSeam
from harness.system.ranks import ALONE, Ranks

Control = Callable[[Float[Tensor, "b m w"]], Float[Tensor, "b m w"]]  # what a block does to its tokens besides


@dataclass(frozen=True)
class WanConfig:
    """Sizes of a network and the switches between its models.

    context: which tokens cross-attention sees (text or image), context_dim wide before their embedding. control: where in
    a block the control acts (none, after_self or after_cross). dtype: of matrix products and cache; stream: of the
    residual stream, norms and modulation.
    """

    dim: int
    heads: int
    layers: int
    ffn: int
    context_dim: int
    freq: int = 256
    in_dim: int = 36
    out_dim: int = 16
    context: str = "text"
    control: str = "none"
    dtype: torch.dtype = torch.float32
    stream: torch.dtype = torch.float32

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    def dtype_of(self, name: str) -> torch.dtype:
        """Precision of a parameter: time embedding, head, norms and modulation are as precise as the stream."""
        exact = ("time_embedding.", "time_projection.", "head.", "norm", "modulation")
        return self.stream if any(part in name for part in exact) else self.dtype


class WanBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, all modulated by the noise level, and a control between them."""

    def __init__(self, layer: int, config: WanConfig, ranks: Ranks) -> None:
        super().__init__()
        self.layer, self.dtype, self.control = layer, config.dtype, config.control
        self.modulation = nn.Parameter(torch.randn(1, 6, config.dim) / config.dim**0.5)
        self.self_attn = Attention(config.dim, config.heads, ranks)
        self.cross_attn = Attention(config.dim, config.heads, ranks)
        self.norm3 = nn.LayerNorm(config.dim, EPS)
        self.ffn = nn.Sequential(nn.Linear(config.dim, config.ffn), nn.GELU(approximate="tanh"), nn.Linear(config.ffn, config.dim))

    def forward(self, x: Tensor, time: Float[Tensor, "b 6 w"], cross: Float[Tensor, "2 b n h d"], control: Control, kv: KVSeam) -> Tensor:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation.to(time) + time)[:, :, None].unbind(1)
        h = (_norm(x) * (1 + scale_a) + shift_a).to(self.dtype)
        o = kv(self.layer, *self.self_attn.queries_keys_values(h)).flatten(2)
        x = x + gate_a * self.self_attn.o(o).to(x.dtype)
        if self.control == "after_self":
            x = control(x)
        h = F.layer_norm(x.float(), x.shape[-1:], self.norm3.weight.float(), self.norm3.bias.float(), EPS).to(self.dtype)
        o = kv.cross(self.layer, self.cross_attn.queries(h), cross[0], cross[1]).flatten(2)
        x = x + self.cross_attn.o(o).to(x.dtype)
        if self.control == "after_cross":
            x = control(x)
        h = (_norm(x) * (1 + scale_f) + shift_f).to(self.dtype)
        return x + gate_f * self.ffn(h).to(x.dtype)


class Head(nn.Module):
    """The last norm and projection, modulated by the time embedding before its projection."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.randn(1, 2, config.dim) / config.dim**0.5)
        self.head = nn.Linear(config.dim, 4 * config.out_dim)

    def forward(self, x: Tensor, time: Float[Tensor, "b w"]) -> Tensor:
        shift, scale = (self.modulation.to(time) + time[:, None])[:, :, None].unbind(1)
        return self.head((_norm(x) * (1 + scale) + shift).to(self.head.weight.dtype))


class ImageEmbedding(nn.Module):
    """Image tokens to the width of the network (`img_emb` of the checkpoints)."""

    def __init__(self, context_dim: int, dim: int) -> None:
        super().__init__()
        layers = nn.LayerNorm(context_dim), nn.Linear(context_dim, context_dim), nn.GELU(), nn.Linear(context_dim, dim), nn.LayerNorm(dim)
        self.proj = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class WanNetwork(nn.Module):
    """Predicts the flow of a chunk's latents.

    ranks: processes that share it. SPLIT: which of its linear layers (patterns of names) they share out by output channels (`columns`), by input
    channels (`rows`, whose results are summed), or by output channels that all ranks then need (`gathered`); each holds all others.
    """

    SPLIT: ClassVar[Mapping[str, str]] = {
        "blocks.*_attn.[qkv]": "columns",
        "blocks.*_attn.o": "rows",
        "blocks.*.ffn.0": "columns",
        "blocks.*.ffn.2": "rows",
        "time_embedding.0": "columns",
        "time_embedding.2": "rows",
        "time_projection.1": "gathered",
        "text_embedding.0": "columns",
        "text_embedding.2": "rows",
        "img_emb.proj.1": "columns",
        "img_emb.proj.3": "rows",
    }

    def __init__(self, config: WanConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        self.config, self.ranks = config, ranks
        self.patch_embedding = nn.Conv3d(config.in_dim, config.dim, (1, 2, 2), (1, 2, 2))
        self.time_embedding = nn.Sequential(nn.Linear(config.freq, config.dim), nn.SiLU(), nn.Linear(config.dim, config.dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(config.dim, 6 * config.dim))
        if config.context == "text":
            self.text_embedding = nn.Sequential(nn.Linear(config.context_dim, config.dim), nn.GELU(approximate="tanh"), nn.Linear(config.dim, config.dim))
        else:
            self.img_emb = ImageEmbedding(config.context_dim, config.dim)
        self.blocks = nn.ModuleList(WanBlock(i, config, ranks) for i in range(config.layers))
        self.head = Head(config)

    def time(self, t: float, device: torch.device) -> tuple[Float[Tensor, "1 w"], Float[Tensor, "1 6 w"]]:
        """The embedding of a noise level and its projection: the same for all tokens, so computed for one."""
        half = self.config.freq // 2
        angle = t * torch.pow(10000.0, -torch.arange(half, dtype=torch.float64, device=device) / half)
        wave = torch.cat([angle.cos(), angle.sin()])[None].to(self.time_embedding[0].weight.dtype)
        embedded = self.time_embedding(wave)
        return embedded.to(self.config.stream), self.time_projection(embedded).unflatten(1, (6, -1)).to(self.config.stream)

    def cross(self, context: Float[Tensor, "b n c"]) -> Float[Tensor, "l 2 b n h d"]:
        """Keys and values of the cross-attention of all layers: once a rollout."""
        embedding = self.text_embedding if self.config.context == "text" else self.img_emb
        tokens = embedding(context.to(self.config.dtype))
        return torch.stack([torch.stack(block.cross_attn.keys_values(tokens)) for block in self.blocks])  # pyright: ignore

    def forward(
        self,
        latents: Float[Tensor, "b c f y x"],
        time: tuple[Tensor, Tensor],
        cross: Float[Tensor, "l 2 b n h d"],
        controls: Sequence[Control],
        kv: KVSeam,
    ) -> Float[Tensor, "b c f y x"]:
        """latents: noise and condition channels. time: from `time`. cross: from `cross`. controls: one a block."""
        embedded, projected = time
        patches = fold(latents).to(self.config.dtype)
        x = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias).to(self.config.stream)
        for block, tokens, control in zip(self.blocks, cross, controls, strict=True):
            x = block(x, projected, tokens, control, kv)
        return unfold(self.head(x, embedded), latents.shape[2:])


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], eps=EPS).to(x.dtype)


def fold(x: Float[Tensor, "b c f y x"]) -> Float[Tensor, "b m c4"]:
    """2x2 cells into tokens, frame by frame and row by row; channels are (channel, row, column)."""
    b, c, f, y, w = x.shape
    cells = x.reshape(b, c, f, y // 2, 2, w // 2, 2).permute(0, 2, 3, 5, 1, 4, 6)
    return cells.reshape(b, f * (y // 2) * (w // 2), 4 * c)


def unfold(x: Float[Tensor, "b m c4"], size: Sequence[int]) -> Float[Tensor, "b c f y x"]:
    """Tokens of a network's output back to latents; its channels are (row, column, channel), not those of `fold`."""
    f, y, w = size
    cells = x.unflatten(1, (f, y // 2, w // 2)).unflatten(-1, (2, 2, -1))
    return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(len(x), -1, f, y, w)


def axes(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that rotate with time, height and width: height and width take 2 * (d // 6) each."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def angles(positions: Float[Tensor, "*n 3"], head_dim: int, theta: float = 10000.0) -> Float[Tensor, "*n e"]:
    """RoPE angles (e = d/2, in float64) at positions (t, y, x): from the formula, so no table ends after 1,024 frames."""
    parts = []
    for axis, width in enumerate(axes(head_dim)):
        frequency = torch.tensor([math.pow(theta, -2 * i / width) for i in range(width // 2)], dtype=torch.float64, device=positions.device)
        parts.append(positions[..., axis, None].double() * frequency)
    return torch.cat(parts, -1)
