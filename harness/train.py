"""Train the `rooms` world model: python harness/train.py  (settings: conf/experiment/train_rooms.yaml)."""

import sys

if __name__ == "__main__" and not __package__:
    # run as a script, harness/ itself comes first on the path, and harness/types.py would shadow the standard library's
    sys.path[0] = sys.path[0].removesuffix("harness")

from pathlib import Path  # noqa: E402

import hydra  # noqa: E402
import lightning as L  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402
from lightning.pytorch.loggers import CSVLogger, WandbLogger  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

from backbones.codecs import ConvCodec  # noqa: E402
from backbones.rooms_network import RoomsNetwork  # noqa: E402
from harness.training.clips import Batches, Clips, Phase, collate  # noqa: E402
from harness.training.modules import CodecTraining, DenoiserTraining  # noqa: E402
from harness.worlds.rooms import SEEDS  # noqa: E402

TOKENS = 64  # an 8x8 latent grid


def fit(name: str, module: L.LightningModule, stage: DictConfig, cfg: DictConfig, first: range, steps_taken: int) -> None:
    """Run one stage to its end, from its last checkpoint if there is one."""
    folder = Path(cfg.out) / name
    phases = [Phase(**p) for p in stage.phases]
    steps = sum(p.steps for p in phases)
    last = folder / "last.ckpt"
    done = torch.load(last, map_location="cpu", weights_only=False)["global_step"] // steps_taken if last.exists() else 0
    world = dict(cfg.world)
    train = DataLoader(
        Clips(first, stage.unique, phases, **world),
        batch_sampler=Batches(phases, done),
        collate_fn=collate,
        num_workers=cfg.workers,
        persistent_workers=cfg.workers > 0,
    )
    fixed = [Phase(phases[0].chunks, phases[0].walk_chunks, 8, 2)]
    validation = DataLoader(Clips(SEEDS["validation"], 16, fixed, **world), batch_sampler=Batches(fixed, 0), collate_fn=collate)
    # by steps: with manual optimisation Lightning ignores a time interval, without a word
    checkpoint = ModelCheckpoint(folder, "last", every_n_train_steps=cfg.checkpoint_steps * steps_taken, enable_version_counter=False)
    callbacks: list[L.Callback] = [checkpoint]
    if "ema" in stage:
        callbacks.append(EMAWeightAveraging(decay=stage.ema))
    logger = WandbLogger(project="worldkv-train", name=name, save_dir=cfg.out) if cfg.logger == "wandb" else CSVLogger(cfg.out, name, "log")
    trainer = L.Trainer(
        accelerator={"auto": "auto", "cuda": "gpu", "cpu": "cpu"}[cfg.device],
        devices=1,
        precision=cfg.precision,
        max_epochs=1,
        max_steps=steps * steps_taken,
        val_check_interval=min(stage.validate_every, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        callbacks=callbacks,
        logger=logger,
        enable_model_summary=False,
    )
    trainer.fit(module, train, validation, ckpt_path=str(last) if last.exists() else None, weights_only=False)


@hydra.main(version_base="1.3", config_path=str(Path(__file__).resolve().parents[1] / "conf"), config_name="experiment/train_rooms")
def main(cfg: DictConfig) -> None:
    L.seed_everything(cfg.seed, verbose=False)
    torch.set_num_threads(cfg.threads or torch.get_num_threads())
    first = SEEDS["train"][cfg.seed * 10**6 : (cfg.seed + 1) * 10**6]
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    codec = ConvCodec(cfg.codec.channels, cfg.codec.width)
    codec_file = out / "codec.safetensors"
    if not codec_file.exists():
        steps = sum(p.steps for p in cfg.codec.phases)
        module = CodecTraining(codec, steps, cfg.codec.lr)
        fit("codec", module, cfg.codec, cfg, first, 1)
        save_file({k: v.contiguous() for k, v in codec.state_dict().items()}, codec_file)
    from safetensors.torch import load_file

    codec.load_state_dict(load_file(codec_file))
    network = RoomsNetwork(channels=cfg.codec.channels, tokens=TOKENS, **cfg.network)
    if cfg.compile:
        network.compile()
    d = OmegaConf.to_container(cfg.denoiser, resolve=True)
    settings = {k: d[k] for k in ("levels", "level_weights", "context_noise", "warmup", "decay", "lr_muon", "lr_adam")}
    module = DenoiserTraining(network, codec, steps=sum(p["steps"] for p in d["phases"]), **settings)
    fit("denoiser", module, cfg.denoiser, cfg, first, 2)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out / "denoiser.safetensors")


if __name__ == "__main__":
    main()
