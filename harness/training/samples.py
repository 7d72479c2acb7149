"""What the model does, while it trains: rollouts under full KV on validation rooms, as a picture and a number."""

from pathlib import Path

import lightning as L
import torch

from backbones.rooms import RoomsBackbone, pack, save_weights
from harness.cache.stores import GpuStore
from harness.reporting.media import save_image, to_uint8
from harness.rollout import rollout
from harness.training.modules import DenoiserTraining, decibel
from harness.worlds.base import World
from policies.full import FullPolicy


class SampleGrid(L.Callback):
    """After every validation: generated above true frames of each trajectory in samples/STEP.png, and val/psnr_guided,
    the PSNR of generated frames against the true views. The weights lie beside the folder as latest.safetensors, to be tried or
    begun from. seen: steps before this training. Stands before the EMA callback, so that it sees the average."""

    def __init__(self, folder: Path, world: World, config: dict, seen: int) -> None:
        self.folder, self.world, self.config, self.seen = folder, world, config, seen

    def on_validation_epoch_end(self, trainer: L.Trainer, module: DenoiserTraining) -> None:
        backbone = RoomsBackbone.of(self.config, pack(module.codec, module.network))
        rows, errors = [], []
        for index in range(len(self.world.names)):
            trajectory = self.world.trajectory(index)
            with torch.autocast("cpu", enabled=False):
                out = rollout(backbone, FullPolicy(), GpuStore(), trajectory, 0, backbone.encode(trajectory.images))
            truth = trajectory.reference
            assert truth is not None
            errors.append((out.frames - truth)[out.generated].square().mean((1, 2, 3)))
            picked = torch.linspace(0, len(truth) - 1, 16).long()
            rows += [torch.cat(list(x[picked]), 2) for x in (out.frames, truth)]
        self.folder.mkdir(parents=True, exist_ok=True)
        steps = self.seen + trainer.global_step // len(trainer.optimizers)
        save_weights(self.folder.parent / "latest.safetensors", self.config | {"steps": steps}, pack(module.codec, module.network))
        save_image(self.folder / f"{steps:06d}.png", to_uint8(torch.cat(rows, 1)[None])[0])
        module.log("val/psnr_guided", decibel(torch.cat(errors)).mean(), prog_bar=True)
