"""One evaluation from its settings: run what is missing, aggregate, draw, compare, tell W&B.

Lightning, the metrics and W&B take seconds to import, so each is imported where it is used: settings that cannot work, and runs
that are finished, are answered without.
"""

import logging
import os
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from harness.evaluation.checks import NOTHING, check_all, check_images, device_of
from harness.evaluation.predict import parts_of, predict, snapshot_of
from harness.evaluation.ranks import Work, agreed, check_ranks, follow, outer_rank, ranks_of, together, tolerance
from harness.evaluation.weights import code_of, inputs_of, weights_of
from harness.reporting.pictures import experiment_pictures, run_pictures
from harness.reporting.table import Run, headline
from harness.reporting.terminal import comparison, console
from harness.results.identity import DECIDES, comparable, deciding, run_path
from harness.results.ownership import check_same_contents, check_same_settings
from harness.results.provenance import provenance
from harness.results.run_folder import RunFolder
from harness.settings.build import build
from harness.settings.command_line import CONF
from harness.settings.nested import flatten
from harness.settings.plugins import plugin_folders, plugins_of
from harness.settings.policy_line import line_of, policy_line
from harness.snapshot.snapshot import is_saved
from harness.system.files import write_atomic
from harness.system.importing import importing
from harness.tracking.tracker import Label, Tracker, followed, tracker_of
from harness.worlds.base import World, check_names

if TYPE_CHECKING:
    from metrics.metric_set import MetricSet

log = logging.getLogger(__name__)
AFTERWARDS = ("pictures", "comparison", "tracker")  # what a kill after results.json leaves for the next start
SAID = 5  # trajectories without revisit pairs that are named


def evaluate(
    cfg: DictConfig,
    choices: dict[str, str],
    label: str,
    compare: bool = True,
    began: float | None = None,
    given: Mapping[str, Any] = NOTHING,
    out: Console | None = None,
) -> dict:
    """Run what is missing of one evaluation and return its results. Raises ValueError for settings that cannot work.

    choices: the option of every config group. compare: set it beside the other runs of its experiment, in a table and in
    pictures (-m and a sweep do that once, at their end). began: `time.perf_counter()` when the command started. given: objects by
    group that are used in place of those that the settings would build. out: where it prints.
    """
    began = time.perf_counter() if began is None else began
    if given and cfg.devices > 1:
        raise ValueError(f"devices={cfg.devices}: objects stay in the process that made them; use devices=1, or settings files (plugins=[mypkg])")
    warnings.filterwarnings("ignore", module="lightning")
    check_all(cfg, given)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(settings, dict)
    check_ranks(settings, given)
    outer = outer_rank(ranks_of(settings))
    plugins = [f"plugins=[{','.join(settings['plugins'])}]"]
    if outer:
        return _followed(settings, plugins_of(plugins), outer)
    path = run_path(settings, choices["policy"])
    out = out or console()
    folder = RunFolder(path)
    if cfg.overwrite and os.environ.get("SLURM_RESTART_COUNT", "0") == "0":  # a requeued job goes on with what it has
        folder.clear()
    check_same_settings(folder, deciding(settings), bool(cfg.run_dir))
    packages = plugins_of(plugins)
    contents = {} if "backbone" in given else weights_of(settings["backbone"])
    contents |= ({} if "world" in given else inputs_of(settings["world"])) | code_of([settings[k] for k in DECIDES if k != "seed"])
    changed = " and ".join(check_same_contents(folder, contents))
    world = given.get("world") or build(cfg.world, "world", World, packages)
    check_names(world.names)
    results, rollouts = folder.results(), 0.0
    done = folder.done() & set(world.names)
    if cfg.snapshot.save:
        wanted = snapshot_of(settings)
        assert wanted.save is not None
        asked = (wanted.about, cfg.seed, wanted.chunks, wanted.load == wanted.save)
        done &= {name for i, name in enumerate(world.names) if is_saved(wanted.save, name, partial(world.trajectory, i), *asked)}
    fresh = results is None or len(done) < len(world.names) or set(results["run"].get("names", world.names)) != set(world.names)
    if changed and done and fresh:
        raise ValueError(f"{path} holds trajectories of other code: {changed} has changed since, and one mean would be of both; overwrite=true runs all again")
    # a W&B agent's run is a new one to its sweep, whether or not there is anything left to do
    told = cfg.logger != "none" and (fresh or folder.owes("tracker") or bool(os.environ.get("WANDB_SWEEP_ID")))
    tracker = _tracker(cfg, settings, choices, label, folder, len(world.names)) if told else None
    if results is None or fresh:
        for line in world.about():
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        folder.create()
        write_atomic(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        folder.write_weights(contents)
        with together(settings, packages):
            work = agreed(ranks_of(settings), Work(tuple(i for i, n in enumerate(world.names) if n not in done), path / "bank"))
            parts = parts_of(cfg, settings, given, packages)
            with importing():
                from metrics.metric_set import MetricSet
            metrics = MetricSet.of(given.get("metric") or (build(m, f"metric.{name}", plugins=packages) for name, m in cfg.metric.items()))
            check_images(metrics, settings["world"].get("size"))
            for name, why in metrics.left_out.items():
                out.print(f"{name} is left out: {why}", markup=False, highlight=False, soft_wrap=True)
            with followed(tracker, folder):
                rollouts = predict(cfg, settings, folder, world, work, metrics, parts)
        run = {
            "label": label,
            **{k: choices[k] for k in ("policy", "world", "store")},
            "backbone": choices["backbone"] + (" with random weights" if settings["backbone"].get("weights") == "random" else ""),
            "protocol": settings["world"].get("protocol", ""),
            "seed": cfg.seed,
            "ranks": ranks_of(settings),
            "ranks_tolerance": tolerance(settings),
            "comparable": comparable(settings),
            "weights": contents,
            "metrics": metrics.versions(),
            "about_policy": line_of(given["policy"]) if "policy" in given else policy_line(choices["policy"], [CONF, *plugin_folders(plugins)]),
            "fps_includes": "plan, assembly, denoising and clean passes, commit, decode; generated chunks only; no warm-up excluded",
            "config": settings,
            **provenance(device_of(settings), packages),
        }
        results = folder.finish(run, world.names, _of_run(folder, metrics, world.names), [asdict(c) for c in metrics.columns()], AFTERWARDS)
    else:
        if outer is not None:
            with together(settings, packages):
                agreed(ranks_of(settings), Work((), path / "bank"))  # the other ranks wait for something to do
        older = f"before {changed} was changed; " if changed else ""
        out.print(f"finished before: {path} ({older}overwrite=true runs it again)", style="yellow" if changed else "", markup=False, soft_wrap=True)
        if tracker is not None:
            tracker.begin()
    if folder.owes("pictures"):
        run_pictures(folder, label)
        folder.paid("pictures")
    current = Run(label, path, results, folder.values(results))
    if compare and folder.owes("comparison") and not cfg.run_dir:  # a chosen folder's parent is not ours to write to
        experiment_pictures(path.parent, path)
    folder.paid("comparison")
    out.print(comparison(path.parent, path, out.width) if compare else escape(headline(current)), highlight=False)
    for name, why in list(results["run"].get("no_pairs", {}).items())[:SAID]:
        out.print(f"{name}: no revisit pairs: {why}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if tracker is not None:
        where, name = tracker.finish(results), "Trackio" if cfg.logger == "trackio" else "W&B"
        out.print(f"{name}: {where}" if where else f"{name}: not logged, see the warning above", markup=False, soft_wrap=True)
    folder.paid("tracker")
    folder.settled()
    if fresh:
        whole = time.perf_counter() - began
        split = f"rollouts {rollouts:.1f} s, everything else {whole - rollouts:.1f} s" if cfg.devices == 1 else f"{whole:.1f} s in {cfg.devices} processes"
        out.print(f"time: {split}", highlight=False)
    out.print(f"results: {path}", markup=False, highlight=False, soft_wrap=True)
    for failed, error in results["run"]["failed"].items():
        out.print(f"failed: {failed}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return results


def _followed(settings: dict, packages: Sequence[str], rank: int) -> dict:
    """What the other ranks of torchrun or Slurm do in place of an evaluation; nothing of it is told here."""
    with together(settings, packages):
        follow(settings, packages, rank)
    return {"run": {"failed": {}, "trajectories": 0}}


def _tracker(cfg: DictConfig, settings: dict, choices: dict[str, str], label: str, folder: RunFolder, trajectories: int) -> Tracker:
    """Who is told of this run. Raises ValueError for one that is not installed."""
    # flat, and `policy` its name: the columns of a run whose `policy` a sweep has set, and of any other
    flat = flatten({k: settings[k] for k in DECIDES}) | {k: v for k, v in choices.items() if not k.startswith("hydra")}
    protocol = f", {settings['world']['protocol']}" if settings["world"].get("protocol") else ""
    notes = str(cfg.notes or "") or f"{trajectories} trajectories of {choices['world']}{protocol}; {folder.path.resolve()}"
    return tracker_of(cfg.logger, folder, flat, Label(str(cfg.name), f"{label}-{cfg.seed}", tuple(cfg.tags), notes), folder.begun())


def _of_run(folder: RunFolder, metrics: "MetricSet", expected: Collection[str]) -> dict[str, dict]:
    """Summary entries of the rollout metrics, over the world's trajectories: of those that have left it, some may lie here still.

    Raises ValueError when trajectories finished without their features.
    """
    names = sorted(folder.done() & set(expected))
    if metrics.rollout and (without := folder.without_features(names)):
        wanted = ", ".join(m.name for m in metrics.rollout)
        raise ValueError(f"{wanted}: {len(without)} of {len(names)} trajectories in {folder.path} finished without features; overwrite=true runs them again")
    features = {metric: {k: torch.from_numpy(x) for k, x in kept.items()} for metric, kept in folder.features(names).items()}
    return metrics.of_run(features, len(names))
