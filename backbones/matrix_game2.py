"""Matrix-Game-2.0: the causal Wan transformer, steered by keyboard and mouse through an action module in its first blocks."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from backbones.actions import ActionCache, ActionConfig, ActionModule, history, rotation
from backbones.checkpoints import files_at, load_into
from backbones.codecs import PreviewCodec
from backbones.sources import MATRIX_GAME_2, require
from backbones.wan_causal import Codec, Precision, Schedule, Sizes, WanBackbone, checked, fill_randomly, precision, refuse_too_large
from backbones.wan_network import Control, WanConfig, WanNetwork
from backbones.wan_parallel import built, codec_of, shared_images
from harness.datatypes import Chunk
from harness.settings.ranges import Count, Device, Positive, Size
from harness.system.devices import chosen_device
from harness.system.ranks import ALONE, Ranks, joined
from harness.trajectory import Trajectory

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
FOLDER = "checkpoints/matrix_game2"  # where weights=null looks
VAE, CLIP = "Wan2.1_VAE.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


class MatrixGame2Network(WanNetwork):
    """The network with its action modules."""

    SPLIT = WanNetwork.SPLIT | {
        "blocks.*.mouse_mlp.0": "columns",
        "blocks.*.mouse_mlp.2": "rows",
        "blocks.*.t_qkv": "gathered",  # heads lie within thirds
        "blocks.*.keyboard_attn_kv": "gathered",
        "blocks.*.mouse_attn_q": "columns",
        "blocks.*.proj_*": "rows",
    }

    def __init__(self, config: WanConfig, action: ActionConfig, ranks: Ranks = ALONE) -> None:
        super().__init__(config, ranks)
        for block in list(self.blocks)[: action.blocks]:
            block.add_module("action_model", ActionModule(config.dim, action, ranks))


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

    def state(self) -> dict:
        return super().state() | {"actions": self.cache.past}

    def restore(self, state: dict) -> None:
        super().restore(state)
        self.cache.past = state["actions"]

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
        past, own = rotation(reach), rotation(reach[-frames:])
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
    weights: str | None,
    variant: Literal["universal", "gta_drive", "templerun"] = "universal",
    degrees_per_unit: Positive = 15.0,
    device: Device = "auto",
    dtype: Precision = "bfloat16",
    size: Size = (352, 640),
    sizes: Sizes | None = None,
    parallel: Count = 1,
) -> MatrixGame2Backbone:
    """The backbone from a checkpoint folder (see `checkpoints.MATRIX_GAME_2`), or at any size with weights=random.

    sizes: other sizes of the network than the published ones (fields of `WanConfig`), for measurements. parallel: processes that share a rollout.
    Raises FileNotFoundError with the download commands, or ValueError for files of another model.
    """
    where, wanted = chosen_device(device), precision(dtype)
    config, action = PUBLISHED[variant]
    config = replace(config, dtype=wanted, stream=wanted, **checked(sizes, config))
    action = replace(action, blocks=min(action.blocks, config.layers))
    ranks = joined(parallel)
    network, parts = built(partial(MatrixGame2Network, config, action), ranks, where)
    refuse_too_large(parts, config.dtype_of, where)
    if weights == "random":
        fill_randomly(network, where, parts)
        tokens = torch.randn(1, 257, config.context_dim, generator=torch.Generator().manual_seed(0))
        codec, images = codec_of(PreviewCodec, ranks), lambda image: tokens
    else:
        from backbones.wan_encoders import ImageEncoder
        from backbones.wan_vae import WanVAE

        folder = Path(weights or FOLDER)
        require(folder, (FILES[variant], VAE, CLIP), MATRIX_GAME_2)
        load_into(network, folder / FILES[variant], device=where, dtype_of=config.dtype_of, prefix="model.", parts=parts)
        half = torch.float16 if where.type == "cuda" else None
        codec = codec_of(lambda: WanVAE.from_checkpoint(folder / VAE, where, decode_dtype=half), ranks)
        images = shared_images(lambda: ImageEncoder.from_checkpoint(folder / CLIP, where, wanted).encode, ranks, where)
    steps, window = STEPS[variant], WINDOWS[variant]
    return MatrixGame2Backbone(network, codec, images, keys_of(variant), schedule(steps), (size[0], size[1]), where, window, degrees_per_unit)


def schedule(steps: Sequence[int] = (1000, 666, 333), shift: float = 5.0) -> Schedule:
    """Sigmas `shift * u / (1 + (shift - 1) * u)`, u = 1 - i/1000, in float32; an entry L of `steps` is i = 1000 - L."""
    u = torch.linspace(1.0, 0.0, 1001)[[1000 - step for step in steps]]
    sigma = shift * u / (1 + (shift - 1) * u)
    return Schedule(tuple((1000 * sigma).tolist()), tuple(sigma.tolist()), tuple(sigma.tolist()))


def _identity(x: Tensor) -> Tensor:
    return x


weight_files = files_at(FOLDER)
