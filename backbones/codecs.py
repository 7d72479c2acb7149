"""The convolutional codec of the `rooms` backbone: one RGB image to one latent frame, 8x8 pixels a token."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NOISE = 0.15  # at most, on the latents while training: the decoder learns to forgive what a denoiser leaves


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(F.silu(self.inner(F.silu(x))))


class ConvCodec(nn.Module):
    """Deterministic autoencoder with unit-variance latents (a batch norm without gain at the bottleneck).

    encode: images in [0, 1], b 3 8y 8x -> b c y x.  decode: the inverse.  blocks: residual blocks at every resolution.
    """

    def __init__(self, channels: int, width: int, blocks: int = 1) -> None:
        super().__init__()
        half, full = width, 2 * width

        def residuals(width: int, more: int = 0) -> list[Residual]:
            return [Residual(width) for _ in range(blocks + more)]

        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1),
            *residuals(half),
            nn.Conv2d(half, full, 4, 2, 1),
            *residuals(full),
            nn.Conv2d(full, full, 4, 2, 1),
            *residuals(full),
            nn.Conv2d(full, channels, 1),
        )
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, full, 3, padding=1),
            *residuals(full, 1),
            nn.Conv2d(full, 4 * full, 1),
            nn.PixelShuffle(2),
            *residuals(full),
            nn.Conv2d(full, 4 * half, 1),
            nn.PixelShuffle(2),
            *residuals(half),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, images: Float[Tensor, "b 3 py px"]) -> Float[Tensor, "b c y x"]:
        return self.norm(self.encoder(images - 0.5))

    def decode(self, latents: Float[Tensor, "b c y x"]) -> Float[Tensor, "b 3 py px"]:
        return self.decoder(latents) + 0.5

    def forward(self, images: Float[Tensor, "b 3 py px"]) -> Float[Tensor, "b 3 py px"]:
        """Reconstruction through latents with noise of a random strength, for training."""
        latents = self.encode(images)
        strength = NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device)
        return self.decode(latents + strength * torch.randn_like(latents))

    def grow(self, smaller: "ConvCodec") -> None:
        """Become another codec of the same width with fewer residual blocks: the additional ones start as the identity.

        With another number of channels, the layers at the bottleneck start anew.
        """
        same = self.norm.num_features == smaller.norm.num_features
        for mine, theirs in ((self.encoder, smaller.encoder), (self.decoder, smaller.decoder)):
            rest = list(theirs)
            for layer in mine:
                if not isinstance(layer, Residual):
                    rest = rest[next(i for i, other in enumerate(rest) if not isinstance(other, Residual)) :]
                elif not rest or not isinstance(rest[0], Residual):
                    nn.init.zeros_(layer.outer.weight)
                    nn.init.zeros_(layer.outer.bias)
                    continue
                tensors = rest.pop(0).state_dict()
                if same or all(v.shape == tensors[k].shape for k, v in layer.state_dict().items()):
                    layer.load_state_dict(tensors)
        if same:
            self.norm.load_state_dict(smaller.norm.state_dict())


class PreviewCodec:
    """No codec: for `weights=random`, where pictures mean nothing and only speed and memory are measured.

    Shapes are those of the Wan VAE (a first latent frame of 1 video frame, then 4 each, 8x8 pixels a cell); decoding shows
    three latent channels, encoding averages.
    """

    def begin(self) -> None:
        self._started = False

    def state(self) -> list:
        return [self._started]

    def restore(self, state: list) -> None:
        (self._started,) = state

    def encode(self, pixels: Float[Tensor, "1 3 p y x"]) -> Float[Tensor, "1 16 f h w"]:
        cells = F.avg_pool3d(pixels[:, :, ::4], (1, 8, 8))
        return F.pad(cells, (0, 0, 0, 0, 0, 0, 0, 13))

    def decode(self, latents: Float[Tensor, "1 16 f h w"]) -> Float[Tensor, "1 3 p y x"]:
        frames = latents[:, :3].repeat_interleave(4, 2)[:, :, 0 if self._started else 3 :]
        self._started = True
        return frames.repeat_interleave(8, 3).repeat_interleave(8, 4).clamp(-1, 1)
