"""Matrix-Game-2.0's action module: attention over time to what the mouse and the keys did, and its memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.rope import rotate_adjacent, turn_by
from backbones.wan_attention import heads_each
from backbones.wan_causal import STRIDE
from backbones.wan_network import Control
from harness.cache.attention import dense
from harness.system.ranks import ALONE, Ranks

WINDOW_PX = 12  # video frames of actions that a latent frame sees
THETA, ROTATED = 256.0, 8  # RoPE of the action module: only the first 8 channels rotate, with the frame


@dataclass(frozen=True)
class ActionConfig:
    """Sizes of the action module. mouse 0: no mouse branch. blocks: how many of the first blocks have it."""

    blocks: int = 15
    keyboard: int = 4
    mouse: int = 2
    heads: int = 16
    head_dim: int = 64
    embed: int = 128
    mouse_width: int = 1024


class ActionModule(nn.Module):
    """Attention over time to what the mouse and the keys did, by the names of the checkpoint.

    The gains of the q/k norms are in the checkpoints, but the released network does not apply them; neither do we.
    """

    def __init__(self, dim: int, config: ActionConfig, ranks: Ranks = ALONE) -> None:
        super().__init__()
        inner, self.heads, self.ranks = config.heads * config.head_dim, config.heads, ranks
        shared = heads_each(config.heads, ranks) * ranks.size * config.head_dim  # channels of all ranks' heads
        self.keyboard_embed = nn.Sequential(nn.Linear(config.keyboard, config.embed), nn.SiLU(), nn.Linear(config.embed, config.embed))
        self.keyboard_attn_kv = nn.Linear(config.embed * WINDOW_PX, 2 * inner, bias=False)
        self.mouse_attn_q = nn.Linear(dim, shared, bias=False)  # the keyboard branch's queries, despite the name
        self.proj_keyboard = nn.Linear(shared, dim, bias=False)
        norms = ["key_attn_q_norm", "key_attn_k_norm"]
        if config.mouse:
            width = config.mouse_width
            layers = nn.Linear(dim + config.mouse * WINDOW_PX, width), nn.GELU(approximate="tanh"), nn.Linear(width, width), nn.LayerNorm(width)
            self.mouse_mlp = nn.Sequential(*layers)
            self.t_qkv = nn.Linear(width, 3 * inner, bias=False)
            self.proj_mouse = nn.Linear(shared, dim, bias=False)
            norms += ["img_attn_q_norm", "img_attn_k_norm"]
        for name in norms:
            self.add_module(name, nn.Module())
            getattr(self, name).weight = nn.Parameter(torch.ones(config.head_dim))

    def mouse(
        self, x: Float[Tensor, "1 m w"], windows: Float[Tensor, "f c"], rotate: Control, remember: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> Tensor:
        """Every place in the picture attends along time to its own past; `remember` adds the past to keys and values."""
        frames = len(windows)
        x = x[0].unflatten(0, (frames, -1))  # f s w
        h = torch.cat([x, windows[:, None].expand(-1, x.shape[1], -1).to(x)], -1).to(self.t_qkv.weight.dtype)
        q, k, v = self._own(self.t_qkv(self.mouse_mlp(h)).unflatten(-1, (3, self.heads, -1))).transpose(0, 1).unbind(2)  # s f h d
        k, v = remember(rotate(_norm(k)), v)
        o = dense(rotate(_norm(q)), k, v)
        return self.proj_mouse(o.flatten(2)).transpose(0, 1).flatten(0, 1)[None]

    def keyboard_kv(self, windows: Float[Tensor, "n p c"], rotate: Control) -> tuple[Float[Tensor, "1 n h d"], Float[Tensor, "1 n h d"]]:
        """Keys and values of frames: they depend on the pressed keys alone, so the past's are computed, not stored."""
        embedded = self.keyboard_embed(windows.to(self.keyboard_attn_kv.weight.dtype)).flatten(1)
        k, v = self._own(self.keyboard_attn_kv(embedded)[None].unflatten(-1, (2, self.heads, -1))).unbind(2)
        return rotate(_norm(k)), v

    def keyboard(self, x: Float[Tensor, "1 m w"], kv: tuple[Tensor, Tensor], frames: int, rotate: Control) -> Tensor:
        """All places attend to the same frames' keys."""
        q = self.mouse_attn_q(x.to(self.mouse_attn_q.weight.dtype)).unflatten(-1, (heads_each(self.heads, self.ranks), -1))
        q = q[0].unflatten(0, (frames, -1)).transpose(0, 1)  # s f h d
        k, v = (t.expand(len(q), -1, -1, -1) for t in kv)
        return self.proj_keyboard(dense(rotate(_norm(q)), k, v).flatten(2)).transpose(0, 1).flatten(0, 1)[None]

    def _own(self, x: Float[Tensor, "... h d"]) -> Float[Tensor, "... g d"]:
        """This rank's heads of all; those beyond the last are zero."""
        each = heads_each(self.heads, self.ranks)
        own = x[..., self.ranks.rank * each : (self.ranks.rank + 1) * each, :]
        return F.pad(own, (0, 0, 0, each - own.shape[-2]))


class ActionCache:
    """The mouse branch's keys and values of the newest frames, for every block: a memory that no policy governs.

    frames: how many a chunk sees, its own included (`local_attn_size` of the checkpoint).
    """

    def __init__(self, frames: int, chunk: int) -> None:
        self._keep = frames - chunk
        self.begin()

    def begin(self) -> None:
        self._past: dict[int, tuple[Tensor, Tensor]] = {}
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def remember(self, block: int, k: Float[Tensor, "s f h d"], v: Float[Tensor, "s f h d"]) -> tuple[Tensor, Tensor]:
        """The past with the frames of the pass that runs; a later pass of the chunk replaces them."""
        if block in self._past:
            k, v = (torch.cat(pair, 1) for pair in zip(self._past[block], (k, v), strict=True))
        self._seen[block] = k, v
        return k, v

    def keep(self) -> None:
        """After the clean pass: its frames are the past of the next chunk, as far as the window reaches."""
        for block, pair in self._seen.items():
            if self._keep:
                self._past[block] = (pair[0][:, -self._keep :].clone(), pair[1][:, -self._keep :].clone())

    @property
    def past(self) -> dict[int, tuple[Tensor, Tensor]]:
        """By block, the keys and values that the next chunk sees; its tensors are replaced, never changed."""
        return dict(self._past)

    @past.setter
    def past(self, past: dict[int, tuple[Tensor, Tensor]]) -> None:
        self._past, self._seen = dict(past), {}

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for pair in self._past.values() for t in pair)


def history(actions: Float[Tensor, "p c"], frames: Tensor) -> Float[Tensor, "n 12 c"]:
    """The 12 video frames before the first video frame of each latent frame; before the start, the first one's.

    It ends before that video frame, so the newest action is seen one latent frame late, as in the released code.
    """
    at = STRIDE * frames[:, None] + torch.arange(-WINDOW_PX, 0)
    return actions[at.clamp(0, len(actions) - 1)]


def rotation(frames: Float[Tensor, "f"]) -> Control:
    """RoPE of the action module for `s f h d`: adjacent channel pairs, all but the first 8 channels unturned."""
    frequency = THETA ** (-torch.arange(0, ROTATED, 2, dtype=torch.float64, device=frames.device) / ROTATED)
    turn = turn_by((frames[:, None].double() * frequency)[:, None])

    def rotate(x: Tensor) -> Tensor:
        return torch.cat([rotate_adjacent(x[..., :ROTATED], turn), x[..., ROTATED:]], -1)

    return rotate


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)
