"""Videos of one system, scored into a run folder like any other's."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from harness.outcome import Rollout
from harness.reporting.media import drawn, films, save_image, strips, to_uint8
from harness.reporting.pictures import run_pictures
from harness.reporting.terminal import comparison, console
from harness.results.identity import config_hash, deciding, named_path
from harness.results.ownership import check_same_settings
from harness.results.provenance import provenance
from harness.results.record import Record, sound
from harness.results.run_folder import RunFolder, without_result
from harness.scoring.cost_file import FILE as COSTS
from harness.scoring.cost_file import Costs, read_costs
from harness.system.files import file_name, write_atomic
from harness.worlds.base import check_names
from harness.worlds.poses import top_view
from harness.worlds.videos import Scored, VideosWorld
from metrics.column import leading_score
from metrics.drift import drift
from metrics.metric_set import MetricSet
from metrics.revisit import mean_gaps, mean_scores, score_pairs


def score(settings: dict, make: Callable[[dict], object], system: str, folder: Path) -> str:
    """Score what is missing and write tables. make: builds an object from its settings. Returns why there is no result; empty if there is one.

    Raises ValueError or OSError for settings that cannot work; what is wrong with one video is recorded, and the others go on.
    """
    world = make(settings["world"])
    assert isinstance(world, VideosWorld)
    check_names(world.names)
    metrics = MetricSet.of(make(m) for m in settings["metric"].values())
    costs = read_costs(folder, world.names)
    config = {"policy": {"system": system}, "backbone": {"external": True}, "store": {}, **{k: settings[k] for k in ("world", "metric", "seed")}}
    default = Path("outputs") / str(settings["name"]) / f"{file_name(system)}-{config_hash(config)}"
    run = RunFolder(named_path(str(settings["run_dir"])) if settings["run_dir"] else default)
    out = console()
    if settings["overwrite"]:
        run.clear()
    check_same_settings(run, deciding(config), bool(settings["run_dir"]))
    run.create()
    write_atomic(run.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    for line in (*world.about(), *(f"{name} is left out: {why}" for name, why in metrics.left_out.items()), costs.about):
        out.print(line, markup=False, highlight=False, soft_wrap=True)
    files = {name: [f for f in (*world.files(index), folder / COSTS) if f.exists()] for index, name in enumerate(world.names)}
    inputs = {name: sorted(f.name for f in found) for name, found in files.items()}
    before = (run.results() or {"run": {}})["run"].get("inputs", inputs)  # a file that is gone since is not newer
    done = {name for name in world.names if before.get(name) == inputs[name] and run.is_newer(name, files[name])} & run.done()
    run.forget(set(world.names) - done)
    for index, name in enumerate(world.names):
        if name not in done:
            record = sound(_record(world, index, metrics, costs, run, index < settings["videos"]))
            run.write(record)
            said = record.error or record.no_pairs or f"{len(record.pairs)} revisit pairs"
            out.print(f"{name}: {'failed: ' if record.error else ''}{said}", markup=False, highlight=False, soft_wrap=True)
    names = sorted(run.done() & set(world.names))
    features = {m: {k: torch.from_numpy(x) for k, x in kept.items()} for m, kept in run.features(names).items()}
    about = {
        "label": system, "policy": system, "world": f"videos ({world.layout})", "store": "external", "backbone": "external", "protocol": "",
        "seed": settings["seed"], "external": costs.about, "inputs": inputs, "comparable": _comparable(run, settings), "metrics": metrics.versions(),
        "about_policy": f"{costs.about}; videos from {folder}", "fps_includes": costs.about, "config": config | {"published": {}},
        **provenance(torch.device("cpu")), "device": costs.device,
    }  # fmt: skip
    results = run.finish(about, world.names, metrics.of_run(features, len(names)), [asdict(c) for c in metrics.columns()])
    run_pictures(run, system)
    out.print(comparison(run.path.parent, run.path, out.width), highlight=False)
    for failed, error in results["run"]["failed"].items():
        out.print(f"failed: {failed}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    out.print(f"results: {run.path}", markup=False, soft_wrap=True)
    failed = results["run"]["failed"]
    return f"{len(failed)} of {len(world.names)} videos were not scored" if failed else without_result(results)


def _record(world: VideosWorld, index: int, metrics: MetricSet, costs: Costs, run: RunFolder, film: bool) -> Record:
    """Score one video. What does not fit of it is the record's error, in a line."""
    name = world.names[index]
    try:
        made = world.scored(index)
        task, rollout = made.task, _rollout(made)
        pairs = score_pairs(rollout, task, None, metrics.frame)
    except (ValueError, OSError) as error:
        return Record(name, {}, error=" ".join(str(error).split()))
    values = mean_scores(pairs) | mean_gaps(pairs) | drift(rollout, task) | costs.of(name, made.shown)
    values |= {"pairs": float(len(pairs)), "frames": float(len(made.frames))}
    features = metrics.features(rollout, task)
    if any(features.values()):
        run.write_features(name, {m: {k: x.numpy() for k, x in kept.items()} for m, kept in features.items()})
    if pairs:
        ranked = sorted(pairs, key=leading_score)
        picked = list(strips(rollout, task, [ranked[-1], ranked[0]]))
        drawn(lambda: save_image(run.path / "trajectories" / f"{file_name(name)}.png", to_uint8(torch.cat(picked, 1)[None])[0]))
    if film:
        for write in films(run.path / "videos", file_name(name), rollout, task, pairs):
            drawn(write)
    path = hashlib.sha256(np.round(task.c2w.double().numpy(), 4).tobytes()).hexdigest()[:16]
    return Record(name, values, pairs, [], f"path {path}", camera=top_view(task.c2w), no_pairs="" if pairs else task.no_pairs)


def _rollout(made: Scored) -> Rollout:
    return Rollout(made.frames, made.generated, (), "")


def _comparable(run: RunFolder, settings: dict) -> str:
    """External videos are compared with one another where metrics and settings of pairs agree; whether their paths do, the records' fingerprints say."""
    world = {k: v for k, v in settings["world"].items() if k not in ("folder", "truth", "layout", "offset", "path_fps", "fps")}
    return config_hash({"external": True, "world": world, "metric": settings["metric"]})
