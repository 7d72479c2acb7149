"""Recall: what a probe shows of an earlier view, against what was seen there first and against the truth."""

from collections.abc import Sequence

import torch

from harness.datatypes import ProbeView, Rollout, Trajectory
from metrics.column import Column
from metrics.frame import FrameMetric


def score_probes(views: Sequence[ProbeView], rollout: Rollout, trajectory: Trajectory, metrics: Sequence[FrameMetric]) -> list[dict[str, float]]:
    """One row a probe: where and over which gap, and the mean over its frames of

    <metric>: the first visit in this rollout against the probe. <metric>_true: the probe against the true view, where there is one.
    """
    rows: list[dict[str, float]] = [{"chunk": v.chunk, "target": v.target, "gap": v.gap, "metres": round(v.metres, 3)} for v in views]
    if not views:
        return rows
    at = torch.tensor([f for v in views for f in v.frames])
    shown = torch.cat([v.shown for v in views])
    compared = {"": (rollout.frames[at], shown)}
    if trajectory.reference is not None:
        compared["_true"] = (shown, trajectory.reference[at])
    lengths = [len(v.frames) for v in views]
    for metric in metrics:
        for suffix, (a, b) in compared.items():
            for row, values in zip(rows, metric.score(a, b).split(lengths), strict=True):
                row[f"{metric.name}{suffix}"] = values.mean().item()
    return rows


def recall_column(metric: FrameMetric) -> Column:
    """What a run's mean recall is called."""
    heading, about = metric.heading or metric.name.upper(), "recall probe: a view last seen long ago, generated again, against its first visit"
    better = 1 if metric.higher_is_better else -1
    return Column(f"recall/{metric.name}", f"recall_{metric.name}", f"{heading} recall", "quality", metric.decimals, better, about, 1.0, metric.unit, 4)


def mean_recall(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """recall/ columns of one trajectory: the mean over its probes, so that each gap counts as often as it was probed."""
    names = [k for k in rows[0] if k not in ("chunk", "target", "gap", "metres")] if rows else []
    return {f"recall/{k}": sum(r[k] for r in rows) / len(rows) for k in names} | ({"recall/probes": float(len(rows))} if rows else {})
