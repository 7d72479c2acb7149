"""The training of the `rooms` world model: the codec, then the denoiser (settings: conf/experiment/train_rooms.yaml)."""

from pathlib import Path
from pickle import UnpicklingError

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader

from backbones.codecs import ConvCodec
from backbones.rooms import pack, save_weights
from backbones.rooms_network import RoomsNetwork
from harness.settings.build import build, plain
from harness.settings.check import check, check_fields
from harness.system.files import write_bytes
from harness.training.clips import CHUNK, Batches, Clips, Phase, Scenery, collate
from harness.training.codec import CodecTraining, Terms
from harness.training.modules import DenoiserTraining
from harness.training.recall import RecallCurve
from harness.training.samples import SampleGrid
from harness.training.settings import TrainSettings
from harness.training.start import begin
from harness.worlds.base import World
from harness.worlds.rooms import SEEDS


def length(stage: DictConfig) -> int:
    """Steps of a stage."""
    return sum(p.steps for p in stage.phases) * stage.get("rounds", 1)


def fit(
    name: str, module: L.LightningModule, stage: DictConfig, cfg: DictConfig, optimizers: int, callbacks: list[L.Callback], result: torch.nn.Module
) -> None:
    """Run one stage to its end, from its last checkpoint if there is one. What was learned is in `result`, and in a file of the stage's name.

    Lightning counts every optimizer's step, so its step is `optimizers` times ours.
    """
    finished = Path(cfg.out) / f"{name}.safetensors"
    if finished.exists():
        try:
            result.load_state_dict(load_file(finished))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{finished} is damaged or of other sizes ({error}); delete it, and the same command makes it from its last checkpoint") from error
        return
    folder = Path(cfg.out) / name
    phases = [Phase(**p) for p in stage.phases] * stage.get("rounds", 1)
    steps = length(stage)
    last = folder / "last.ckpt"
    done = _steps(last) // optimizers if last.exists() else 0
    scenery = Scenery(**cfg.world)
    scenes = SEEDS["train"][cfg.seed * 10**6 : (cfg.seed + 1) * 10**6]
    train = DataLoader(
        Clips(scenes, stage.unique, phases, scenery),
        batch_sampler=Batches(phases, done),
        collate_fn=collate,
        num_workers=cfg.workers,
        persistent_workers=cfg.workers > 0,
    )
    fixed = [Phase(stage.validation.chunks, stage.validation.walk_chunks, stage.validation.batch, stage.validation.steps)]
    validation = DataLoader(Clips(SEEDS["validation"], 10**6, fixed, scenery), batch_sampler=Batches(fixed, 0), collate_fn=collate)
    # by steps: with manual optimisation Lightning ignores a time interval, without a word
    saving = ModelCheckpoint(folder, "last", every_n_train_steps=cfg.checkpoint_steps * optimizers, enable_version_counter=False)
    trainer = L.Trainer(
        accelerator={"auto": "auto", "cuda": "gpu", "cpu": "cpu"}[cfg.device],
        devices=1,
        precision=cfg.precision,
        max_epochs=1,
        max_steps=steps * optimizers,
        val_check_interval=min(stage.validate_every, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        callbacks=[saving, *callbacks],
        logger=_logger(name, cfg, done),
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, train, validation, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):
            raise
        raise OSError(f"could not write a checkpoint in {folder}: is the disk full? Free some space, and the same command goes on") from error
    write_bytes(finished, save({k: v.contiguous() for k, v in result.state_dict().items()}), "free some space, and the same command goes on", flush=True)


def _steps(checkpoint: Path) -> int:
    """Lightning's count of steps in a checkpoint, of which nothing but numbers and tensors is read. Raises ValueError for a damaged one."""
    try:
        steps = torch.load(checkpoint, map_location="cpu", weights_only=True)["global_step"]
        if isinstance(steps, int) and steps >= 0:
            return steps
        raise ValueError(f"global_step is {steps}")
    except (UnpicklingError, RuntimeError, ValueError, KeyError, TypeError, EOFError, AttributeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{checkpoint} is damaged, or holds more than numbers and tensors ({line}); delete it, and this stage begins anew") from error


def _logger(name: str, cfg: DictConfig, done: int) -> CSVLogger | WandbLogger:
    """Curves: a CSV per start (it cannot append), or W&B."""
    if cfg.logger == "wandb":
        return WandbLogger(project="worldkv-train", name=name, save_dir=cfg.out)
    return CSVLogger(cfg.out, name, f"log_from_{done:06d}")


def checked(cfg: DictConfig) -> dict:
    """The settings as plain values. Raises ValueError for what cannot work."""
    settings = plain(cfg)
    check_fields(settings, TrainSettings)
    check(settings["samples"], "samples", World)
    for stage in ("codec", "denoiser"):
        for phase in (*settings[stage]["phases"], settings[stage]["validation"]):
            if phase["walk_chunks"] < phase["chunks"]:
                raise ValueError(
                    f"{stage}: a clip of {phase['chunks']} chunks does not fit a walk of {phase['walk_chunks']}; give walk_chunks={phase['chunks']} or more"
                )
    return settings


def train(cfg: DictConfig) -> Path:
    """Both stages, each from where it was left; returns the weights file."""
    settings = checked(cfg)
    L.seed_everything(cfg.seed, verbose=False)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    codec_sizes = {k: settings["codec"][k] for k in ("channels", "width", "blocks")}
    codec = ConvCodec(**codec_sizes)
    side = cfg.world.size // 8
    network = RoomsNetwork(channels=cfg.codec.channels, tokens=side * side, **cfg.network)
    seen = begin(Path(cfg.start), codec, network) if cfg.start else 0
    terms = Terms(**settings["terms"])
    if cfg.codec.phases:
        fit("codec", CodecTraining(codec, length(cfg.codec), cfg.codec.lr, terms, cfg.codec.frozen), cfg.codec, cfg, 1, [], codec)
    if cfg.compile:
        network.compile()
    model = {"grid": [side, side], "chunk": CHUNK, "levels": settings["denoiser"]["levels"], "codec": codec_sizes, "network": settings["network"]}
    keys = ("levels", "level_weights", "context_noise", "warmup", "decay", "lr_muon", "lr_adam")
    module = DenoiserTraining(network, codec, steps=length(cfg.denoiser), **{k: settings["denoiser"][k] for k in keys})
    if module.steps:
        samples = SampleGrid(out / "samples", build(settings["samples"], "samples", World), model, seen)
        recall = RecallCurve(out / "samples", Scenery(**cfg.world), model, **settings["recall"], seen=seen)
        fit("denoiser", module, cfg.denoiser, cfg, 2, [samples, recall, EMAWeightAveraging(decay=cfg.denoiser.ema)], network)
    save_weights(out / "rooms.safetensors", model | {"steps": seen + module.steps}, pack(codec, network))
    return out / "rooms.safetensors"
