"""Matrix-Game-2.0: the causal Wan transformer, steered by keyboard and mouse through an action module in its first blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.checkpoints import MATRIX_GAME_2, load_into, require
from backbones.codecs import PreviewCodec
from backbones.rope import rotate_adjacent, turn_by
from backbones.wan_causal import STRIDE, Codec, Schedule, WanBackbone, chosen_device, fill_randomly, precision
from backbones.wan_network import Control, WanConfig, WanNetwork
from harness.attention import dense
from harness.types import Chunk, Trajectory

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


_SIZES = WanConfig(1536, 12, 30, 8960, 1280, context="image", control="after_cross")
PUBLISHED = {
    "universal": (_SIZES, ActionConfig(keyboard=4)),
    "gta_drive": (_SIZES, ActionConfig(keyboard=2)),
    "templerun": (_SIZES, ActionConfig(keyboard=7, mouse=0)),
}

STEPS = {"universal": (1000, 666, 333), "gta_drive": (1000, 666, 333), "templerun": (1000, 750, 500, 250)}
WINDOWS = {"universal": 6, "gta_drive": 4, "templerun": 6}  # latent frames that the action module sees
FILES = {
    "universal": "base_distilled_model/base_distill.safetensors",
    "gta_drive": "gta_distilled_model/gta_keyboard2dim.safetensors",
    "templerun": "templerun_distilled_model/templerun_7dim_onlykey.safetensors",
}
VAE, CLIP = "Wan2.1_VAE.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


class ActionModule(nn.Module):
    """Attention over time to what the mouse and the keys did, by the names of the checkpoint.

    The gains of the q/k norms are in the checkpoints, but the released network does not apply them; neither do we.
    """

    def __init__(self, dim: int, config: ActionConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.keyboard_embed = nn.Sequential(nn.Linear(config.keyboard, config.embed), nn.SiLU(), nn.Linear(config.embed, config.embed))
        self.keyboard_attn_kv = nn.Linear(config.embed * WINDOW_PX, 2 * inner, bias=False)
        self.mouse_attn_q = nn.Linear(dim, inner, bias=False)  # the keyboard branch's queries, despite the name
        self.proj_keyboard = nn.Linear(inner, dim, bias=False)
        norms = ["key_attn_q_norm", "key_attn_k_norm"]
        if config.mouse:
            width = config.mouse_width
            layers = nn.Linear(dim + config.mouse * WINDOW_PX, width), nn.GELU(approximate="tanh"), nn.Linear(width, width), nn.LayerNorm(width)
            self.mouse_mlp = nn.Sequential(*layers)
            self.t_qkv = nn.Linear(width, 3 * inner, bias=False)
            self.proj_mouse = nn.Linear(inner, dim, bias=False)
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
        q, k, v = self.t_qkv(self.mouse_mlp(h)).unflatten(-1, (3, self.heads, -1)).transpose(0, 1).unbind(2)  # s f h d
        k, v = remember(rotate(_norm(k)), v)
        o = dense(rotate(_norm(q)), k, v)
        return self.proj_mouse(o.flatten(2)).transpose(0, 1).flatten(0, 1)[None]

    def keyboard_kv(self, windows: Float[Tensor, "n p c"], rotate: Control) -> tuple[Float[Tensor, "1 n h d"], Float[Tensor, "1 n h d"]]:
        """Keys and values of frames: they depend on the pressed keys alone, so the past's are computed, not stored."""
        embedded = self.keyboard_embed(windows.to(self.keyboard_attn_kv.weight.dtype)).flatten(1)
        k, v = self.keyboard_attn_kv(embedded)[None].unflatten(-1, (2, self.heads, -1)).unbind(2)
        return rotate(_norm(k)), v

    def keyboard(self, x: Float[Tensor, "1 m w"], kv: tuple[Tensor, Tensor], frames: int, rotate: Control) -> Tensor:
        """All places attend to the same frames' keys."""
        q = self.mouse_attn_q(x.to(self.mouse_attn_q.weight.dtype)).unflatten(-1, (self.heads, -1))
        q = q[0].unflatten(0, (frames, -1)).transpose(0, 1)  # s f h d
        k, v = (t.expand(len(q), -1, -1, -1) for t in kv)
        return self.proj_keyboard(dense(rotate(_norm(q)), k, v).flatten(2)).transpose(0, 1).flatten(0, 1)[None]


class MatrixGame2Network(WanNetwork):
    """The network with its action modules."""

    def __init__(self, config: WanConfig, action: ActionConfig) -> None:
        super().__init__(config)
        for block in list(self.blocks)[: action.blocks]:
            block.add_module("action_model", ActionModule(config.dim, action))


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
    def nbytes(self) -> int:
        return sum(t.nbytes for pair in self._past.values() for t in pair)


class MatrixGame2Backbone(WanBackbone):
    """action_window: latent frames that the action module sees (6; 4 for gta_drive), the chunk included.

    images: the first frame, in [-1, 1], to image tokens. buttons: a trajectory's actions to what the variant's keyboard
    is, per video frame. degrees_per_unit: camera turn of one video frame for a mouse value of 1 (to be calibrated for a
    checkpoint; the demo's step is 0.1).
    """

    repeatable = False  # a clean pass moves the action cache on

    def __init__(
        self,
        network: MatrixGame2Network,
        codec: Codec,
        images: Callable[[Float[Tensor, "1 3 y x"]], Float[Tensor, "1 n c"]],
        buttons: Callable[[Float[Tensor, "p 6"]], Float[Tensor, "p k"]],
        schedule: Schedule,
        size: tuple[int, int],
        device: torch.device,
        action_window: int = 6,
        degrees_per_unit: float = 15.0,
    ) -> None:
        super().__init__(network, codec, schedule, size, device)
        if action_window < self.geometry.chunk:
            raise ValueError(f"action_window={action_window} frames is less than a chunk of {self.geometry.chunk}; the released models have 6 or 4")
        self.images, self.buttons, self.degrees_per_unit, self.window = images, buttons, degrees_per_unit, action_window
        self.actions = {i: block.action_model for i, block in enumerate(network.blocks) if hasattr(block, "action_model")}
        self.has_mouse = any(hasattr(module, "t_qkv") for module in self.actions.values())
        self.cache = ActionCache(action_window, self.geometry.chunk)

    def begin(self, trajectory: Trajectory) -> None:
        super().begin(trajectory)
        self.cache.begin()

    @property
    def state_bytes(self) -> int:
        return super().state_bytes + self.cache.nbytes

    def context(self, trajectory: Trajectory) -> Float[Tensor, "1 n c"]:
        return self.images(2 * trajectory.images[:1] - 1)

    def mouse(self, actions: Float[Tensor, "p 6"]) -> Float[Tensor, "p 2"]:
        """(pitch, yaw) of the mouse from the camera's turns in degrees."""
        return actions[:, [5, 4]] / self.degrees_per_unit

    def control(self, trajectory: Trajectory, chunk: Chunk) -> tuple[Tensor, ...]:
        """Windows of the mouse for the chunk's frames, of the keys for all frames in reach, and those frames' indices."""
        device = self.geometry.device
        first = max(0, chunk.frames[-1] + 1 - self.window)
        reach = torch.arange(first, chunk.frames[-1] + 1)
        mouse = history(self.mouse(trajectory.actions), torch.tensor(chunk.frames)).flatten(1)
        keys = history(self.buttons(trajectory.actions), reach)
        return mouse.to(device), keys.to(device), reach.to(device)

    def controls(self, inputs: Sequence[Tensor]) -> list[Control]:
        mouse, keys, reach = inputs
        frames = self.geometry.chunk
        past, own = _rotation(reach), _rotation(reach[-frames:])
        return [self._control(i, mouse, keys, past, own) if i in self.actions else _identity for i in range(self.geometry.layers)]

    def _control(self, block: int, mouse: Tensor, keys: Tensor, past: Control, own: Control) -> Control:
        module, frames = self.actions[block], self.geometry.chunk

        def act(x: Float[Tensor, "1 m w"]) -> Float[Tensor, "1 m w"]:
            if self.has_mouse:
                x = x + module.mouse(x, mouse, own, partial(self.cache.remember, block)).to(x.dtype)
            return x + module.keyboard(x, module.keyboard_kv(keys, past), frames, own).to(x.dtype)

        return act

    def denoise(self, x: Tensor, t: float, condition, kv) -> Tensor:
        out = super().denoise(x, t, condition, kv)
        if t == 0:
            self.cache.keep()
        return out


def keys_of(variant: str) -> Callable[[Float[Tensor, "p 6"]], Float[Tensor, "p k"]]:
    """What the actions W S A D yaw pitch are on a variant's keyboard."""

    def runner(actions: Tensor) -> Tensor:  # none, jump, slide, turn left, turn right, side left, side right: one at a time
        _, _, left, right, yaw, _ = actions.T
        never = torch.zeros_like(yaw)
        wanted = torch.stack([never + 0.5, never, never, -yaw, yaw, left, right], 1)
        return F.one_hot(wanted.argmax(1), 7).float()

    return {"universal": lambda actions: actions[:, :4], "gta_drive": lambda actions: actions[:, :2], "templerun": runner}[variant]


def load(
    weights: str,
    variant: str = "universal",
    degrees_per_unit: float = 15.0,
    device: str = "auto",
    dtype: str = "bfloat16",
    size: Sequence[int] = (352, 640),
    sizes: Mapping[str, int] | None = None,
) -> MatrixGame2Backbone:
    """The backbone from a checkpoint folder (see `checkpoints.MATRIX_GAME_2`), or at any size with weights=random.

    sizes: other sizes of the network than the published ones (fields of `WanConfig`), for measurements.
    Raises FileNotFoundError with the download commands, or ValueError for files of another model.
    """
    if variant not in PUBLISHED:
        raise ValueError(f"backbone.variant={variant!r}; use one of {', '.join(PUBLISHED)}")
    where, wanted = chosen_device(device), precision(dtype)
    config, action = PUBLISHED[variant]
    config = replace(config, dtype=wanted, stream=wanted, **(sizes or {}))
    action = replace(action, blocks=min(action.blocks, config.layers))
    with torch.device("meta"):
        network = MatrixGame2Network(config, action)
    if weights == "random":
        fill_randomly(network, where)
        tokens = torch.randn(1, 257, config.context_dim, generator=torch.Generator().manual_seed(0))
        codec, images = PreviewCodec(), lambda image: tokens
    else:
        from backbones.wan_encoders import ImageEncoder
        from backbones.wan_vae import WanVAE

        folder = Path(weights)
        require(folder, (FILES[variant], VAE, CLIP), MATRIX_GAME_2)
        load_into(network, folder / FILES[variant], device=where, dtype_of=config.dtype_of, prefix="model.")
        codec = WanVAE.from_checkpoint(folder / VAE, where, decode_dtype=torch.float16 if where.type == "cuda" else None)
        images = ImageEncoder.from_checkpoint(folder / CLIP, where, wanted).encode
    steps, window = STEPS[variant], WINDOWS[variant]
    return MatrixGame2Backbone(network, codec, images, keys_of(variant), schedule(steps), (size[0], size[1]), where, window, degrees_per_unit)


def history(actions: Float[Tensor, "p c"], frames: Tensor) -> Float[Tensor, "n 12 c"]:
    """The 12 video frames before the first video frame of each latent frame; before the start, the first one's.

    It ends before that video frame, so the newest action is seen one latent frame late, as in the released code.
    """
    at = STRIDE * frames[:, None] + torch.arange(-WINDOW_PX, 0)
    return actions[at.clamp(0, len(actions) - 1)]


def schedule(steps: Sequence[int] = (1000, 666, 333), shift: float = 5.0) -> Schedule:
    """Sigmas `shift * u / (1 + (shift - 1) * u)`, u = 1 - i/1000, in float32; an entry L of `steps` is i = 1000 - L."""
    u = torch.linspace(1.0, 0.0, 1001)[[1000 - step for step in steps]]
    sigma = shift * u / (1 + (shift - 1) * u)
    return Schedule(tuple((1000 * sigma).tolist()), tuple(sigma.tolist()), tuple(sigma.tolist()))


def _rotation(frames: Float[Tensor, "f"]) -> Control:
    """RoPE of the action module for `s f h d`: adjacent channel pairs, all but the first 8 channels unturned."""
    frequency = THETA ** (-torch.arange(0, ROTATED, 2, dtype=torch.float64, device=frames.device) / ROTATED)
    turn = turn_by((frames[:, None].double() * frequency)[:, None])

    def rotate(x: Tensor) -> Tensor:
        return torch.cat([rotate_adjacent(x[..., :ROTATED], turn), x[..., ROTATED:]], -1)

    return rotate


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)


def _identity(x: Tensor) -> Tensor:
    return x
