"""Training of the codec, or of its decoder alone."""

from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.codecs import ConvCodec
from harness.settings.ranges import Weight
from harness.training.clips import Clip
from harness.training.modules import by_scenery, decibel, pixels, schedule
from metrics.drift import local_contrast
from metrics.frame import LPIPS


@dataclass(frozen=True)
class Terms:
    """Weights beside the squared error: of the absolute error, of LPIPS and of `texture_error`. The last two bring back what squared
    error averages away."""

    absolute: Weight
    perceptual: Weight
    texture: Weight


def texture_error(a: Float[Tensor, "n 3 y x"], b: Float[Tensor, "n 3 y x"], window: int = 8) -> Float[Tensor, ""]:
    """Mean squared log ratio of the standard deviations within tiles that overlap by half: 0 where `a` is as rough as `b`.

    0.01 is added to both in quadrature, so that what is flat in both costs nothing.
    """

    def roughness(x: Tensor) -> Tensor:
        variance = F.avg_pool2d(x.square(), window, window // 2) - F.avg_pool2d(x, window, window // 2).square()
        return 0.5 * (variance.clamp(min=0) + 1e-4).log()

    return (roughness(a) - roughness(b)).square().mean()


class Restoration(nn.Module):
    """How far restored images are from the true ones, as a loss and as numbers to report."""

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.terms = terms
        self.lpips = LPIPS() if terms.perceptual else None

    def forward(self, restored: Float[Tensor, "n 3 y x"], images: Float[Tensor, "n 3 y x"]) -> Float[Tensor, ""]:
        error = restored - images
        loss = error.square().mean() + self.terms.absolute * error.abs().mean()
        if self.lpips is not None:
            loss = loss + self.terms.perceptual * self.lpips.distance(restored, images).mean()
        if self.terms.texture:
            loss = loss + self.terms.texture * texture_error(restored, images)
        return loss

    def numbers(self, restored: Float[Tensor, "n 3 y x"], images: Float[Tensor, "n 3 y x"]) -> dict[str, Tensor]:
        """PSNR in dB, local contrast as a share of the true images' and, if it is a term, LPIPS."""
        restored = restored.clamp(0, 1)
        out = {
            "psnr": decibel((restored - images).square().mean((1, 2, 3))).mean(),
            "contrast": local_contrast(restored).mean() / local_contrast(images).mean(),
        }
        return out if self.lpips is None else out | {"lpips": self.lpips.distance(restored, images).mean()}


class CodecTraining(L.LightningModule):
    """Reconstruction of images through noisy latents.

    frozen: the encoder stays as it is, so that a denoiser that learned in its latents stays valid.
    """

    def __init__(self, codec: ConvCodec, steps: int, lr: float, terms: Terms, frozen: bool) -> None:
        super().__init__()
        self.codec, self.steps, self.lr = codec.to(memory_format=torch.channels_last), steps, lr
        self.restoration, self.frozen = Restoration(terms), frozen
        codec.encoder.requires_grad_(not frozen)

    def training_step(self, clip: Clip, index: int) -> Tensor:
        torch.manual_seed(self.global_step)  # noise is a function of the step: a resumed run repeats it
        self.codec.norm.train(not self.frozen)
        images = pixels(clip).contiguous(memory_format=torch.channels_last)
        restored = self.codec(images).float()
        self.log("train/codec_psnr", decibel((restored.detach() - images).square().mean()), prog_bar=True)
        return self.restoration(restored, images)

    def validation_step(self, clip: Clip, index: int) -> None:
        for name, some in by_scenery(clip):
            images = pixels(some)
            with torch.autocast(images.device.type, enabled=False):
                restored = self.codec.decode(self.codec.encode(images))
            numbers = self.restoration.numbers(restored, images)
            self.log_dict({f"val/codec_{k}_{name}": v for k, v in numbers.items()}, batch_size=len(images))

    def configure_optimizers(self):
        """AdamW with 50 steps of warm-up and a decay over the second half."""
        optimizer = torch.optim.AdamW([p for p in self.codec.parameters() if p.requires_grad], lr=self.lr, weight_decay=1e-4)
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: schedule(s, self.steps, 50, 0.5))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}
