"""One evaluation from its settings: run what is missing, aggregate, draw, compare, tell W&B.

Lightning, the metrics and W&B take seconds to import, so each is imported where it is used: settings that cannot work, and runs
that are finished, are answered without.
"""

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape

from harness.evaluation.checks import NOTHING, check_images, device_of
from harness.evaluation.companions import together
from harness.evaluation.job import Job, Standing, checked, job_and_standing, plugin_settings
from harness.evaluation.kept import Kept, kept_for
from harness.evaluation.predict import parts_of, predict
from harness.evaluation.ranks import Work, agreed, follow, outer_rank, ranks_of, tolerance
from harness.reporting.pictures import experiment_pictures, run_pictures
from harness.reporting.table import headline
from harness.reporting.terminal import comparison, console
from harness.results.identity import DECIDES, comparable
from harness.results.provenance import FPS_INCLUDES, provenance
from harness.results.run_folder import RunFolder
from harness.settings.build import build
from harness.settings.command_line import CONF
from harness.settings.nested import flatten
from harness.settings.plugins import plugin_folders, plugins_of
from harness.settings.policy_line import line_of, policy_line
from harness.system.files import write_atomic
from harness.system.importing import importing
from harness.tracking.tracker import Label, Tracker, followed, tracker_of

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
    several: bool = False,
) -> dict:
    """Run what is missing of one evaluation and return its results. Raises ValueError for settings that cannot work.

    choices: the option of every config group. compare: set it beside the other runs of its experiment, in a table and in
    pictures (-m and a sweep do that once, at their end). began: `time.perf_counter()` when the command started. given: objects by
    group that are used in place of those that the settings would build. out: where it prints. several: whether this process runs others too; then what
    these have in common is made once.
    """
    began = time.perf_counter() if began is None else began
    settings = checked(cfg, given)
    outer = outer_rank(ranks_of(settings))
    if outer:
        return _followed(settings, plugins_of(plugin_settings(settings)), outer)
    job, standing = job_and_standing(cfg, settings, choices, label, given)
    tracker, out = _tracker(job, standing.fresh), out or console()
    if standing.fresh:
        results, rollouts = _run_missing(job, standing.done, tracker, out, several)
    else:
        results, rollouts = _finished_before(job, standing, outer is not None, tracker, out), 0.0
    _show(job, results, compare, out)
    _tell(job, results, tracker, out)
    if standing.fresh:
        whole = time.perf_counter() - began
        split = f"rollouts {rollouts:.1f} s, everything else {whole - rollouts:.1f} s" if cfg.devices == 1 else f"{whole:.1f} s in {cfg.devices} processes"
        out.print(f"time: {split}", highlight=False)
    out.print(f"results: {job.folder.path}", markup=False, highlight=False, soft_wrap=True)
    for failed, error in results["run"]["failed"].items():
        out.print(f"failed: {failed}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    return results


def _run_missing(job: Job, done: Collection[str], tracker: Tracker | None, out: Console, several: bool) -> tuple[dict, float]:
    """Roll out what is not done, and aggregate all. Returns the results, and the seconds within rollouts."""
    cfg, settings, given, folder, world = job.cfg, job.settings, job.given, job.folder, job.world
    for line in world.about():
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    folder.create()
    write_atomic(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
    folder.write_weights(job.contents)
    with together(settings, job.packages):
        work = agreed(ranks_of(settings), Work(tuple(i for i, n in enumerate(world.names) if n not in done), folder.path / "bank"))
        parts = parts_of(cfg, settings, given, job.packages)
        with importing():
            from metrics.metric_set import MetricSet
        metrics = MetricSet.of(given.get("metric") or (build(m, f"metric.{name}", plugins=job.packages) for name, m in cfg.metric.items()))
        check_images(metrics, settings["world"].get("size"))
        for name, why in metrics.left_out.items():
            out.print(f"{name} is left out: {why}", markup=False, highlight=False, soft_wrap=True)
        kept = kept_for(settings, job.contents) if several and not given and ranks_of(settings) == 1 else Kept()  # objects may change meanwhile
        with followed(tracker, folder):
            rollouts = predict(cfg, settings, folder, world, work, metrics, parts, kept)
    columns = [asdict(c) for c in metrics.columns()]
    return folder.finish(_about(job, metrics), world.names, _of_run(folder, metrics, world.names), columns, AFTERWARDS), rollouts


def _about(job: Job, metrics: "MetricSet") -> dict:
    """What results.json says of the run."""
    settings, choices, given = job.settings, job.choices, job.given
    return {
        "label": job.label,
        **{k: choices[k] for k in ("policy", "world", "store")},
        "backbone": choices["backbone"] + (" with random weights" if settings["backbone"].get("weights") == "random" else ""),
        "protocol": settings["world"].get("protocol", ""),
        "seed": job.cfg.seed,
        "ranks": ranks_of(settings),
        "ranks_tolerance": tolerance(settings),
        "comparable": comparable(settings),
        "weights": job.contents,
        "metrics": metrics.versions(),
        "about_policy": line_of(given["policy"]) if "policy" in given else policy_line(choices["policy"], [CONF, *plugin_folders(plugin_settings(settings))]),
        "fps_includes": FPS_INCLUDES,
        "config": settings,
        **provenance(device_of(settings), job.packages),
    }


def _finished_before(job: Job, standing: Standing, of_several: bool, tracker: Tracker | None, out: Console) -> dict:
    """The results of an earlier start. of_several: whether other ranks wait for something to do."""
    if of_several:
        with together(job.settings, job.packages):
            agreed(ranks_of(job.settings), Work((), job.folder.path / "bank"))
    older = f"before {standing.changed} was changed; " if standing.changed else ""
    style = "yellow" if standing.changed else ""
    out.print(f"finished before: {job.folder.path} ({older}overwrite=true runs it again)", style=style, markup=False, soft_wrap=True)
    if tracker is not None:
        tracker.begin()
    assert standing.results is not None, "what has none is fresh"
    return standing.results


def _show(job: Job, results: dict, compare: bool, out: Console) -> None:
    """Pictures and tables, where an earlier start has not made them."""
    folder, path = job.folder, job.folder.path
    if folder.owes("pictures"):
        run_pictures(folder, job.label)
        folder.paid("pictures")
    if compare and folder.owes("comparison") and not job.cfg.run_dir:  # a chosen folder's parent is not ours to write to
        experiment_pictures(path.parent, path)
    folder.paid("comparison")
    out.print(comparison(path.parent, path, out.width) if compare else escape(headline(job.label, results)), highlight=False)
    for name, why in list(results["run"].get("no_pairs", {}).items())[:SAID]:
        out.print(f"{name}: no revisit pairs: {why}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def _tell(job: Job, results: dict, tracker: Tracker | None, out: Console) -> None:
    if tracker is not None:
        where, name = tracker.finish(results), "Trackio" if job.cfg.logger == "trackio" else "W&B"
        out.print(f"{name}: {where}" if where else f"{name}: not logged, see the warning above", markup=False, soft_wrap=True)
    job.folder.paid("tracker")
    job.folder.settled()


def _followed(settings: dict, packages: Sequence[str], rank: int) -> dict:
    """What the other ranks of torchrun or Slurm do in place of an evaluation; nothing of it is told here."""
    with together(settings, packages):
        follow(settings, packages, rank)
    return {"run": {"failed": {}, "trajectories": 0}}


def _tracker(job: Job, fresh: bool) -> Tracker | None:
    """Who is told of this run; None where nobody is to be, or was told all. Raises ValueError for one that is not installed."""
    cfg, settings, choices = job.cfg, job.settings, job.choices
    # a W&B agent's run is a new one to its sweep, whether or not there is anything left to do
    if cfg.logger == "none" or not (fresh or job.folder.owes("tracker") or os.environ.get("WANDB_SWEEP_ID")):
        return None
    # flat, and `policy` its name: the columns of a run whose `policy` a sweep has set, and of any other
    flat = flatten({k: settings[k] for k in DECIDES}) | {k: v for k, v in choices.items() if not k.startswith("hydra")}
    protocol = f", {settings['world']['protocol']}" if settings["world"].get("protocol") else ""
    notes = str(cfg.notes or "") or f"{len(job.world.names)} trajectories of {choices['world']}{protocol}; {job.folder.path.resolve()}"
    return tracker_of(cfg.logger, job.folder, flat, Label(str(cfg.name), f"{job.label}-{cfg.seed}", tuple(cfg.tags), notes), job.folder.begun())


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
