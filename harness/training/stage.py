"""One stage of a training: run to its end, and go on from where it was left."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from time import perf_counter
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch.utils.data import DataLoader, Dataset

from harness.settings.nested import flatten
from harness.system.files import write_atomic, write_bytes
from harness.training.clips import Batches, Clips, Phase, Scenery, collate
from harness.training.cpu import CpuHours
from harness.worlds.rooms import SEEDS

NOTHING: Mapping[str, Any] = MappingProxyType({})


def length(stage: DictConfig) -> int:
    """Steps of a stage."""
    return sum(p.steps for p in stage.phases) * stage.get("rounds", 1)


def precision_of(cfg: DictConfig) -> str:
    """The precision of a training. `auto` is measured on a CPU: one without instructions for bfloat16 is 50 times slower in it."""
    if cfg.precision != "auto":
        return cfg.precision
    if cfg.device != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if _multiplying(torch.bfloat16) < _multiplying(torch.float32) else "32-true"


def _multiplying(dtype: torch.dtype) -> float:
    """Seconds of a product of two matrices, the fastest of three."""
    x = torch.ones(512, 512, dtype=dtype)

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
    more: Mapping[str, Any] = NOTHING,
) -> None:
    """Run one stage to its end, from its last checkpoint if there is one. What was learned is in `result`, and in a file of the stage's name.
    clips: what it learns from, by seeds, how many of them, phases and scenery. more: settings that decide what it learns besides the stage's own.
    Raises ValueError where `out` holds this stage under other settings.

    Lightning counts every optimizer's step, so its step is `optimizers` times ours.
    """
    precision = _begun(Path(cfg.out) / f"{name}.json", stage, cfg, more)
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
        precision=precision,  # pyright: ignore[reportArgumentType]
        max_epochs=1,
        max_steps=steps * optimizers,
        val_check_interval=min(stage.validate_every, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        callbacks=[saving, CpuHours(), *callbacks],
        logger=_logger(name, cfg, done),
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, train, validation, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except RuntimeError as error:
        if "PytorchStreamWriter" not in str(error):
            raise
        raise OSError(f"could not write a checkpoint in {folder}: is the disk full? Free some space, and the same command goes on") from error
    for average in (c for c in callbacks if isinstance(c, WeightAveraging) and done >= steps):
        average.on_train_end(trainer, module)  # killed in the last validation: Lightning finds nothing left to do, and would leave the last weights
    write_bytes(finished, save({k: v.contiguous() for k, v in result.state_dict().items()}), "free some space, and the same command goes on", flush=True)


def _begun(file: Path, stage: DictConfig, cfg: DictConfig, more: Mapping[str, Any]) -> str:
    """Note which settings a stage was begun with, or check that they are these. Returns the precision, which stays what it was."""
    mine = {"stage": OmegaConf.to_container(stage, resolve=True), "world": OmegaConf.to_container(cfg.world), "seed": cfg.seed, "start": cfg.start, **more}
    mine = json.loads(json.dumps(mine))
    try:
        said = json.loads(file.read_text())
        theirs, precision = flatten(said["settings"]), str(said["precision"])
    except FileNotFoundError:
        precision = precision_of(cfg)
        write_atomic(file, json.dumps({"settings": mine, "precision": precision}, indent=1))
        return precision
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}), so nobody knows what was begun in {cfg.out}; give another out") from error
    now = flatten(mine)
    if differ := [k for k in dict.fromkeys([*theirs, *now]) if theirs.get(k) != now.get(k)]:
        named = "; ".join(f"{k} is {theirs.get(k, 'absent')} there and {now.get(k, 'absent')} here" for k in differ[:4])
        raise ValueError(f"{cfg.out} holds a training of other settings ({named}); give another out, or delete that folder")
    return precision if cfg.precision == "auto" else cfg.precision


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
