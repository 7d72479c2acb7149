"""Training of the depth head that the arm `geometry` adds to the codec: depth from latents, on true depth of training rooms and houses."""

from typing import NamedTuple

import lightning as L
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from backbones.codecs import NOISE, ConvCodec
from backbones.rooms_geometry import FINE, DepthHead
from harness.training.clips import Phase, Scenery, make_shot
from harness.training.modules import schedule
from harness.worlds.render import depths, render

CELL = 8  # pixels a token


class Seen(NamedTuple):
    """Images and the depth of what they show, in metres, `FINE` values along a token's edge."""

    frames: UInt8[Tensor, "*b f 3 y x"]
    depth: Float[Tensor, "*b f v u"]


class DepthClips(Dataset[Seen]):
    """The scenes and cameras of `Clips`."""

    def __init__(self, seeds: range, unique: int, phases: list[Phase], scenery: Scenery) -> None:
        self.seeds, self.unique, self.phases, self.scenery = seeds, unique, phases, scenery

    def __getitem__(self, key: tuple[int, int]) -> Seen:
        p, side = self.phases[key[0]], self.scenery.size
        shot = make_shot(self.seeds[key[1] % self.unique], p.chunks, p.walk_chunks, self.scenery)
        frames = render(shot.scene, shot.c2w, shot.intrinsics, (side, side))
        fine = side * FINE // CELL
        return Seen((frames * 255).round().byte(), depths(shot.scene, shot.c2w, shot.intrinsics, (fine, fine), FINE / CELL))


class DepthTraining(L.LightningModule):
    """The absolute error of the logarithm of depth, from latents with the noise that a denoiser leaves."""

    def __init__(self, head: DepthHead, codec: ConvCodec, steps: int, lr: float) -> None:
        super().__init__()
        self.head, self.codec = head.requires_grad_(True), codec.eval().requires_grad_(False)
        self.steps, self.lr = steps, lr

    def error(self, seen: Seen, noise: float, g: torch.Generator) -> Float[Tensor, ""]:
        with torch.no_grad(), torch.autocast(seen.depth.device.type, enabled=False):
            latents = self.codec.encode(seen.frames.flatten(0, 1).float() / 255)
        strength = noise * torch.rand(len(latents), 1, 1, 1, generator=g).to(latents)
        predicted = self.head(latents + strength * torch.randn(latents.shape, generator=g).to(latents))
        return (predicted.log() - seen.depth.flatten(0, 1).log()).abs().mean()

    def training_step(self, seen: Seen, index: int) -> Tensor:
        error = self.error(seen, NOISE, torch.Generator().manual_seed(self.global_step))  # a function of the step: a resumed run repeats it
        self.log("train/depth_log_error", error, prog_bar=True)
        return error

    def validation_step(self, seen: Seen, index: int) -> None:
        self.log("val/depth_log_error", self.error(seen, 0.0, torch.Generator().manual_seed(index)), batch_size=len(seen.frames), prog_bar=True)

    def configure_optimizers(self):
        """AdamW with 50 steps of warm-up and a decay over the second half."""
        optimizer = torch.optim.AdamW(self.head.parameters(), lr=self.lr, weight_decay=1e-4)
        factor = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: schedule(s, self.steps, 50, 0.5))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": factor, "interval": "step"}}
