"""What one evaluation is asked for, and how much of it is on disk already."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness.evaluation.checks import check_all
from harness.evaluation.predict import snapshot_of
from harness.evaluation.ranks import check_ranks
from harness.evaluation.weights import code_of, inputs_of, weights_of
from harness.results.identity import DECIDES, deciding, run_path
from harness.results.ownership import check_same_contents, check_same_settings
from harness.results.run_folder import RunFolder
from harness.settings.build import build
from harness.settings.plugins import plugins_of
from harness.snapshot.snapshot import is_saved
from harness.system.files import file_name
from harness.worlds.base import World, check_names


@dataclass(frozen=True)
class Job:
    """settings: `cfg` as plain values. choices: the option of every config group. label: what tables call it. given: objects by group that are used
    in place of those that the settings would build. packages: plug-ins. contents: digests of weights, inputs and code, by setting."""

    cfg: DictConfig
    settings: dict
    choices: dict[str, str]
    label: str
    given: Mapping[str, Any]
    packages: Sequence[str]
    folder: RunFolder
    contents: dict[str, str]
    world: World


@dataclass(frozen=True)
class Standing:
    """results: of an earlier evaluation of these settings. done: trajectories of the world that need not run. fresh: whether results are to be made,
    because there are none, or none of all these trajectories. changed: which contents are others since then, in words; empty: none."""

    results: dict | None
    done: set[str]
    fresh: bool
    changed: str


def checked(cfg: DictConfig, given: Mapping[str, Any]) -> dict:
    """The settings as plain values. Raises ValueError for what cannot work, before anything is built."""
    if given and cfg.devices > 1:
        raise ValueError(f"devices={cfg.devices}: objects stay in the process that made them; use devices=1, or settings files (plugins=[mypkg])")
    warnings.filterwarnings("ignore", module="lightning")
    check_all(cfg, given)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    check_ranks(settings, given)
    return settings


def plugin_settings(settings: dict) -> list[str]:
    return [f"plugins=[{','.join(settings['plugins'])}]"]


def job_and_standing(cfg: DictConfig, settings: dict, choices: dict[str, str], label: str, given: Mapping[str, Any]) -> tuple[Job, Standing]:
    """The folder is emptied where `overwrite` asks for it. Raises ValueError for a folder of other settings, and for trajectories of other code that new
    ones would be averaged with."""
    folder = RunFolder(run_path(settings, choices["policy"]))
    if cfg.overwrite and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":  # a requeued job goes on with what it has
        folder.clear()
    check_same_settings(folder, deciding(settings), bool(cfg.run_dir))
    packages = plugins_of(plugin_settings(settings))
    contents = {} if "backbone" in given else weights_of(settings["backbone"])
    contents |= ({} if "world" in given else inputs_of(settings["world"])) | code_of([settings[k] for k in DECIDES if k != "seed"])
    changed = " and ".join(check_same_contents(folder, contents))
    world = given.get("world") or build(cfg.world, "world", World, packages)
    check_names(world.names)
    job = Job(cfg, settings, choices, label, given, packages, folder, contents, world)
    return job, _standing(job, changed)


def _standing(job: Job, changed: str) -> Standing:
    names, results = job.world.names, job.folder.results()
    done = job.folder.done() & set(names)
    if job.cfg.snapshot.save:
        wanted = snapshot_of(job.settings)
        assert wanted.save is not None
        for i, name in enumerate(names):
            begins_there = wanted.load is not None and wanted.load.resolve() in (wanted.save.resolve(), (wanted.save / file_name(name)).resolve())
            if not is_saved(wanted.save, name, partial(job.world.trajectory, i), wanted.about, job.cfg.seed, wanted.chunks, begins_there):
                done.discard(name)
    fresh = results is None or len(done) < len(names) or set(results["run"].get("names", names)) != set(names)
    if changed and done and fresh:
        where = f"{job.folder.path} holds trajectories of other code"
        raise ValueError(f"{where}: {changed} has changed since, and one mean would be of both; overwrite=true runs all again")
    return Standing(results, done, fresh, changed)
