"""The rollouts of one evaluation: what they are made of, and Lightning's loop over the trajectories."""

import builtins
import logging
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import DictConfig

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.evaluation.checks import device_of
from harness.evaluation.kept import Kept
from harness.evaluation.ranks import Work, place
from harness.outcome import ChunkStats
from harness.policy import CachePolicy
from harness.reporting.terminal import console
from harness.results.identity import plain_backbone
from harness.results.run_folder import RunFolder
from harness.rollout import Snapshot
from harness.settings.build import build
from harness.system.importing import importing
from harness.system.stopping import end_processes

if TYPE_CHECKING:
    from metrics.metric_set import MetricSet


class Parts(NamedTuple):
    """What a rollout is made of. make_backbone: on a device."""

    make_backbone: Callable[[str], Backbone]
    policy: CachePolicy
    store: PackedStore
    snapshot: Snapshot


def parts_of(cfg: DictConfig, settings: dict, given: Mapping[str, Any], packages: Sequence[str]) -> Parts:
    """Build them where they are not given, so that what cannot work is said before the imports that take seconds. Raises ValueError."""
    snapshot = snapshot_of(settings)
    store, policy = build(cfg.store, "store", PackedStore, packages), given.get("policy") or build(cfg.policy, "policy", CachePolicy, packages)
    make_backbone = partial(_build, settings["backbone"], packages)
    if cfg.devices == 1:
        backbone = given.get("backbone") or make_backbone(place(settings, 0))
        policy.reset(backbone.geometry)
        backbone.check_arm(policy.arm, type(policy).__name__)
        make_backbone = partial(_made, backbone)
    return Parts(make_backbone, policy, store, snapshot)


def predict(cfg: DictConfig, settings: dict, folder: RunFolder, world, work: Work, metrics: "MetricSet", parts: Parts, kept: Kept) -> float:
    """Roll out these trajectories. kept: of earlier runs of this process, if it makes them all. Returns the seconds of the rollouts, if it does."""
    processes = min(cfg.devices, max(1, len(work.indices)))  # Lightning refuses more than there is to do
    device, alone, store = device_of(settings), processes == 1, parts.store
    with importing():
        import lightning as L
        from lightning.fabric.plugins.environments.lightning import LightningEnvironment
        from torch.multiprocessing.spawn import ProcessRaisedException

        from harness.evaluation.callbacks import ChunkProgress, ResultWriter
        from harness.evaluation.live import LiveLog
        from harness.evaluation.probes import Probes
        from harness.evaluation.progress import ProgressLines, say
        from harness.evaluation.runner import EvalModule, loader

    for noisy in ("lightning.pytorch", "lightning.fabric"):  # whose import sets levels of its own
        logging.getLogger(noisy).setLevel(logging.ERROR)
    store.settle(work.bank)
    done = len(world.names) - len(work.indices)
    line = alone and console().is_terminal
    progress = ChunkProgress(len(world.names), done, cfg.progress) if line else ProgressLines(len(world.names), done, say)
    live = LiveLog(folder.path, cfg.live_chunks)
    observe = partial(_observe, (progress.observe, live.chunk) if cfg.progress else (live.chunk,))
    probes = Probes(**settings["probes"])
    module = EvalModule(parts.make_backbone, parts.policy, store, world, metrics, cfg.seed, observe, parts.snapshot, probes, kept if alone else None)
    callbacks: list[L.Callback] = [ResultWriter(folder, cfg.videos, live), progress]
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if alone and device.index is not None else processes,
        strategy="auto" if alone else "ddp_spawn",
        plugins=[LightningEnvironment()],  # processes are ours to start, also where Slurm or others have set variables
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
    )
    others = set(multiprocessing.active_children())  # whoever calls us may have some
    try:
        trainer.predict(module, loader(work.indices), return_predictions=False)
    except ProcessRaisedException as error:  # of another process; its text is all that comes over
        raise of_another_process(str(error)) from error
    finally:
        end_processes([p for p in multiprocessing.active_children() if p not in others])
        store.close()
        with suppress(OSError):  # there was none, or another process uses it
            work.bank.rmdir()
    return module.rollout_seconds


def of_another_process(text: str) -> Exception:
    """What another process raised, from the traceback that is all that comes over: a mistake with its whole message, anything else as a fault with
    the traceback."""
    lines = text.strip().splitlines()
    frames = [i for i, line in enumerate(lines) if line.startswith('  File "')]
    end = next((i for i in range(frames[-1] + 1, len(lines)) if not lines[i].startswith(" ")), len(lines)) if frames else len(lines)
    name, _, first = (lines[end] if end < len(lines) else "").partition(": ")
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, ValueError | OSError | ArithmeticError):
        return ValueError("\n".join([first, *lines[end + 1 :]]))
    return RuntimeError(text)


def snapshot_of(settings: dict) -> Snapshot:
    """What `snapshot` asks for. It belongs to a policy, a backbone on its device, and the form of its pages."""
    snapshot = settings["snapshot"]
    backbone = {k: v for k, v in plain_backbone(settings["backbone"]).items() if k != "device"}
    about = {"policy": settings["policy"], "backbone": backbone, "codec": settings["store"]["codec"]}
    save, load = (Path(snapshot[k]) if snapshot[k] else None for k in ("save", "load"))
    return Snapshot(save, load, snapshot["chunks"], about)


def _observe(observers: tuple[Callable[[str, ChunkStats], None], ...], name: str, stats: ChunkStats) -> None:
    for observer in observers:
        observer(name, stats)


def _build(backbone: dict, plugins: Sequence[str], device: str) -> Backbone:
    return build(backbone | {"device": device}, "backbone", Backbone, plugins)


def _made(backbone, device: str):
    """With one process the backbone is there already, on the device that Lightning chooses too."""
    return backbone
