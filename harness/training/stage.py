"""One stage of a training: run to its end, and go on from where it was left."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader, Dataset

from harness.system.files import write_bytes
from harness.training.clips import Batches, Clips, Phase, Scenery, collate
from harness.worlds.rooms import SEEDS


def length(stage: DictConfig) -> int:
    """Steps of a stage."""
    return sum(p.steps for p in stage.phases) * stage.get("rounds", 1)


def precision_of(cfg: DictConfig) -> str:
    """The precision of a training; `auto` is measured, since a CPU without instructions for bfloat16 is 50 times slower in it."""
    if cfg.precision != "auto":
        return cfg.precision
    device = torch.device("cuda" if cfg.device != "cpu" and torch.cuda.is_available() else "cpu")
    return "bf16-mixed" if _multiplying(torch.bfloat16, device) < _multiplying(torch.float32, device) else "32-true"


def _multiplying(dtype: torch.dtype, device: torch.device) -> float:
    """Seconds of a product of two matrices, the fastest of three."""
    x = torch.ones(256, 256, dtype=dtype, device=device)

    def once() -> float:
        start = perf_counter()
        (x @ x)[0, 0].item()
        return perf_counter() - start

    return min(once() for _ in range(3))


def fit(
    name: str,
    module: L.LightningModule,
    stage: DictConfig,
    cfg: DictConfig,
    optimizers: int,
    callbacks: list[L.Callback],
    result: torch.nn.Module,
    clips: Callable[[range, int, list[Phase], Scenery], Dataset] = Clips,
) -> None:
    """Run one stage to its end, from its last checkpoint if there is one. What was learned is in `result`, and in a file of the stage's name.
    clips: what it learns from, by seeds, how many of them, phases and scenery.

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
        clips(scenes, stage.unique, phases, scenery),
        batch_sampler=Batches(phases, done),
        collate_fn=collate,
        num_workers=cfg.workers,
        persistent_workers=cfg.workers > 0,
    )
    fixed = [Phase(stage.validation.chunks, stage.validation.walk_chunks, stage.validation.batch, stage.validation.steps)]
    validation = DataLoader(clips(SEEDS["validation"], 10**6, fixed, scenery), batch_sampler=Batches(fixed, 0), collate_fn=collate)
    # by steps: with manual optimisation Lightning ignores a time interval, without a word
    saving = ModelCheckpoint(folder, "last", every_n_train_steps=cfg.checkpoint_steps * optimizers, enable_version_counter=False)
    trainer = L.Trainer(
        accelerator={"auto": "auto", "cuda": "gpu", "cpu": "cpu"}[cfg.device],
        devices=1,
        precision=precision_of(cfg),
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
