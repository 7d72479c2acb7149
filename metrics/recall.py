"""Recall: what a probe shows of an earlier view, against what was seen there first and against the truth."""

from collections.abc import Sequence

import torch

from harness.outcome import ProbeView, Rollout
from harness.trajectory import Trajectory
from metrics.column import ARMS, Column, recalled
from metrics.frame import FrameMetric


def score_probes(views: Sequence[ProbeView], rollout: Rollout, trajectory: Trajectory, metrics: Sequence[FrameMetric]) -> list[dict[str, float]]:
    """One row a probe: where and over which gap, and the mean over its frames of

    <metric>: the first visit in this rollout against the probe; not for a probe from beside, which shows what was never seen so.
    <metric>_true: the probe against the true view, where there is one.
    Both once more, with _wrong, _other, _mean or _none behind, for what the probe shows with its pages replaced (`ARMS`), where they were.
    """
    return [_row(view, rollout, trajectory, metrics) for view in views]


def _row(view: ProbeView, rollout: Rollout, trajectory: Trajectory, metrics: Sequence[FrameMetric]) -> dict[str, float]:
    row: dict[str, float] = {"chunk": view.chunk, "target": view.target, "gap": view.gap, "metres": round(view.metres, 3)}
    at = torch.tensor(view.frames)
    if view.aside is not None:
        row |= {"aside_metres": round(view.aside[0], 3), "aside_degrees": round(view.aside[1], 1)}
    truth = view.truth if view.aside is not None else None if trajectory.reference is None else trajectory.reference[at]
    for end, shown in [("", view.shown), *((f"_{arm}", shown) for arm, shown in view.audit.items())]:
        for metric in metrics:
            if view.aside is None:
                row[f"{metric.name}{end}"] = metric.score(rollout.frames[at], shown).mean().item()
            if truth is not None:
                row[f"{metric.name}_true{end}"] = metric.score(shown, truth).mean().item()
    return row


def recall_columns(metric: FrameMetric) -> tuple[Column, Column]:
    """What a run's mean recall is called: against the first visit, and against the true view."""
    heading, better = metric.heading or metric.name.upper(), 1 if metric.higher_is_better else -1
    ends = {"": ("", "its first visit"), "_true": (" true view", "the true view")}
    first, true = (
        Column(
            f"recall/{metric.name}{end}",
            f"recall_{metric.name}{end}",
            f"{heading} recall{more}",
            "quality",
            metric.decimals,
            better,
            f"recall probe: a view last seen long ago, or from beside it, generated again, against {against}",
            1.0,
            metric.unit,
            4,
            difference=metric.difference,
        )
        for end, (more, against) in ends.items()
    )
    return first, true


def mean_recall(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """recall/ columns of one trajectory: the mean over its probes, so that each gap counts as often as it was probed."""
    names = recalled(rows)
    return {f"recall/{k}": sum(r[k] for r in rows) / len(rows) for k in names} | ({"recall/probes": float(len(rows))} if rows else {})


def mean_audit(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """audit/ columns of one trajectory: by how much the right pages beat what they were replaced by, mean over the probes of which both are known.

    A difference of scores as they are: positive is better where more is better (PSNR, SSIM), negative where less is (LPIPS).
    """
    found = {}
    for name in recalled(rows):
        for arm in ARMS:
            gains = [row[name] - row[f"{name}_{arm}"] for row in rows if f"{name}_{arm}" in row]
            if gains:
                found[f"audit/{name}_{arm}"] = sum(gains) / len(gains)
    return found


def audit_columns(metric: FrameMetric) -> list[Column]:
    """What a run's audit is called."""
    heading, better, lead = metric.heading or metric.name.upper(), 1 if metric.higher_is_better else -1, metric.rank == 1
    ends = {"": "", "_true": " true view"}
    return [
        Column(
            f"audit/{metric.name}{end}_{arm}",
            f"audit_{metric.name}{end}_{arm}",
            f"{heading}{more} over {arm}",
            "quality",
            metric.decimals,
            better,
            f"audit of recall probes: the pages that were brought back, over {instead} in their place",
            1.0,
            metric.unit,
            (4 if arm == "wrong" else 5) if lead else 7,
        )
        for end, more in ends.items()
        for arm, instead in ARMS.items()
    ]
