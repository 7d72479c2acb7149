"""The VAE of Wan 2.1 (arXiv 2503.20314; `diffusers` AutoencoderKLWan) as a codec that decodes a rollout as it grows."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backbones.checkpoints import load_into
from backbones.wan_encoders import renamed, shapes_at, size, wan_extra

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan  # pyright: ignore[reportPrivateImportUsage]

RULES = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"^(encoder|decoder)\.head\.0\.", r"\1.norm_out."),
    (r"^(encoder|decoder)\.head\.2\.", r"\1.conv_out."),
    (r"^(encoder|decoder)\.middle\.0\.", r"\1.mid_block.resnets.0."),
    (r"^(encoder|decoder)\.middle\.1\.", r"\1.mid_block.attentions.0."),
    (r"^(encoder|decoder)\.middle\.2\.", r"\1.mid_block.resnets.1."),
    (r"^encoder\.downsamples\.", "encoder.down_blocks."),
    # decoder.upsamples counts through: three residual blocks and, but for the last level, an upsampler
    *((rf"^decoder\.upsamples\.{4 * level + block}\.", f"decoder.up_blocks.{level}.resnets.{block}.") for level in range(4) for block in range(3)),
    *((rf"^decoder\.upsamples\.{4 * level + 3}\.", f"decoder.up_blocks.{level}.upsamplers.0.") for level in range(3)),
    (r"\.residual\.0\.", ".norm1."),
    (r"\.residual\.2\.", ".conv1."),
    (r"\.residual\.3\.", ".norm2."),
    (r"\.residual\.6\.", ".conv2."),
    (r"\.shortcut\.", ".conv_shortcut."),
)


def vae_keys(name: str) -> str:
    """A key of `Wan2.1_VAE.pth` in diffusers' AutoencoderKLWan; a key of the latter stays."""
    return renamed(name, RULES)


class WanVAE:
    """Pixels in [-1, 1] to normalised latents and back: 4 video frames a latent frame (the first: 1), 8x8 pixels a cell.

    The decoder is causal: it keeps the last two frames of every convolution's input, so that a rollout decoded chunk by
    chunk is bit for bit the rollout decoded at once. `begin` forgets them. State is the decoder's alone; encoding leaves it.
    """

    def __init__(self, model: "AutoencoderKLWan") -> None:
        self.model = model.eval()
        statistics = model.config.latents_mean, model.config.latents_std  # pyright: ignore[reportAttributeAccessIssue]
        self._mean, self._std = (torch.tensor(values, device=model.device).view(1, -1, 1, 1, 1) for values in statistics)
        self._slots = sum(isinstance(module, nn.Conv3d) for module in model.decoder.modules())
        self.begin()

    @classmethod
    def from_checkpoint(cls, path: Path, device: torch.device | str, dtype: torch.dtype = torch.float32, decode_dtype: torch.dtype | None = None) -> "WanVAE":
        """path: `Wan2.1_VAE.pth` (or its keys in a .safetensors), or a folder as `diffusers` saves it.

        Sizes come from the tensors. decode_dtype: of the decoder alone (Matrix-Game-2.0 decodes in float16).
        Raises ImportError without the extra, FileNotFoundError, and ValueError for a file that is damaged or does not fit.
        """
        shapes = {vae_keys(key): shape for key, shape in shapes_at(path, "Wan2.1_VAE.pth or a diffusers folder (a .safetensors)").items()}
        with wan_extra():
            from diffusers import AutoencoderKLWan  # pyright: ignore[reportPrivateImportUsage]
        with torch.device("meta"):
            model = AutoencoderKLWan(
                base_dim=size(shapes, "encoder.conv_in.weight", 0, 96),
                decoder_base_dim=size(shapes, "decoder.conv_out.weight", 1, 96),
            )

        def dtype_of(name: str) -> torch.dtype:
            return decode_dtype or dtype if name.startswith(("decoder.", "post_quant_conv.")) else dtype

        load_into(model, path, device=torch.device(device), dtype_of=dtype_of, rename=vae_keys)
        return cls(model)

    def begin(self) -> None:
        """A new rollout: the next latent frame is a first one."""
        self._past: list[Tensor | None] = [None] * self._slots

    def state(self) -> list:
        """The decoder's frames of every convolution, and its marks of those that have seen one frame only."""
        return list(self._past)

    def restore(self, state: list) -> None:
        self._past = list(state)

    def encode(self, pixels: Float[Tensor, "1 3 p y x"]) -> Float[Tensor, "1 16 f h w"]:
        """The mode of the posterior, normalised per channel, in float32. Raises ValueError for sizes that would be cut."""
        frames, *sides = pixels.shape[2:]
        if frames % 4 != 1 or any(side % 8 for side in sides):
            raise ValueError(
                f"a video of {frames} frames of {sides} pixels: the VAE takes 1 + 4n frames with sides that are multiples of 8 "
                "(single rooms and houses have other lengths: use world=scenes or world=recorded)"
            )
        weight = self.model.quant_conv.weight
        mode = self.model.encode(pixels.to(weight)).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
        return (mode.float() - self._mean) / self._std

    def decode(self, latents: Float[Tensor, "1 16 f h w"]) -> Float[Tensor, "1 3 p y x"]:
        """The video frames of the rollout's next latent frames, in [-1, 1] and float32."""
        z = (latents.to(self._mean) * self._std + self._mean).to(self.model.post_quant_conv.weight.dtype)
        pixels = []
        for frame in z.split(1, 2):
            pixels.append(self.model.decoder(self.model.post_quant_conv(frame), feat_cache=self._past, feat_idx=[0]))
        return torch.cat(pixels, 2).float().clamp(-1, 1)
