"""A recorded walk as runs: one folder a pane, with the records, tables and videos that the report reads."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from torch import Tensor

from harness.evaluation.runner import chunk_row
from harness.outcome import Rollout
from harness.playing.pane import Pane
from harness.reporting.media import drawn, films
from harness.results.identity import comparable, config_hash
from harness.results.provenance import FPS_INCLUDES, provenance
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.settings.build import build
from harness.settings.plugins import plugins_of
from harness.system.files import file_name, write_atomic
from harness.trajectory import Trajectory
from harness.worlds.poses import top_view
from metrics.cost import cost
from metrics.drift import drift
from metrics.metric_set import MetricSet
from metrics.revisit import mean_scores, score_pairs


def write_runs(experiment: Path, panes: Sequence[Pane], task: Trajectory, roundtrip: Float[Tensor, "p 3 y x"] | None, seed: int) -> None:
    """A run folder for each pane of a walk along `task`. They are comparable with one another, and with no other walk."""
    walked = config_hash({"path": task.c2w.tolist()})
    for number, pane in enumerate(panes, 1):
        settings = pane.made.settings
        plugins = plugins_of([f"plugins=[{','.join(settings['plugins'])}]"])
        metrics = MetricSet.of(build(m, f"metric.{k}", plugins=plugins) for k, m in settings["metric"].items())
        rollout = _made_here(pane, task)
        pairs = score_pairs(rollout, task, roundtrip, metrics.frame)
        values = mean_scores(pairs) | drift(rollout, task) | cost(rollout) | {"pairs": float(len(pairs)), "chunks": float(len(rollout.stats))}
        chunks = [chunk_row(s) for s in rollout.stats]
        record = Record(task.name, values, pairs, chunks, rollout.noise, camera=top_view(task.c2w))
        folder = RunFolder(experiment / f"{number}-{pane.made.choice.policy}")
        folder.create()
        write_atomic(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(settings)))
        for write in films(folder.path / "videos", file_name(task.name), rollout, task, pairs):
            drawn(write)
        folder.write(record)
        about = {
            "label": pane.made.label + (f" from chunk {pane.since}" if pane.since > 1 else ""),
            **{k: pane.made.choices[k] for k in ("policy", "world", "store", "backbone")},
            "protocol": "walked by hand",
            "seed": seed,
            "comparable": comparable(settings, walked=walked),
            "metrics": metrics.versions(),
            "fps_includes": FPS_INCLUDES,
            "config": settings,
            **provenance(pane.session.backbone.geometry.device),
        }
        folder.finish(about, [task.name])


def _made_here(pane: Pane, task: Trajectory) -> Rollout:
    """What a pane shows, all of it generated but the images that were given: chunks that another policy had made are its past too."""
    made = pane.session.rollout()
    return Rollout(made.frames, torch.arange(len(made.frames)) >= task.given, made.stats, made.noise, made.latents)
