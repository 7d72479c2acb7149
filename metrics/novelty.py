"""Views that a rollout has never shown before, apart from those that it comes back to: both against the truth."""

from collections.abc import Mapping, Sequence

import torch

from harness.outcome import Rollout
from harness.trajectory import Trajectory
from metrics.column import Column
from metrics.frame import FrameMetric

KINDS = {"novel": "views that are seen for the first time", "returned": "views that had been seen, and left in between"}


def score_kinds(rollout: Rollout, trajectory: Trajectory, kinds: Mapping[str, Sequence[int]], metrics: Sequence[FrameMetric]) -> dict[str, float]:
    """<kind>/<metric>: generated video frames of a kind against their true views, mean; <kind>/frames: how many. What there is none of is left out."""
    found: dict[str, float] = {}
    for kind, frames in kinds.items():
        at = [f for f in frames if f < len(rollout.frames) and rollout.generated[f]]
        if trajectory.reference is None or not at:
            continue
        images = torch.cat([rollout.frames[at], trajectory.reference[at]])
        mine, true = torch.arange(len(at))[None], torch.arange(len(at), 2 * len(at))[None]
        found |= {f"{kind}/{m.name}": m.compare(images, mine, true).mean().item() for m in metrics} | {f"{kind}/frames": float(len(at))}
    return found


def kind_columns(metric: FrameMetric) -> list[Column]:
    """What a run's novel and returned views are called."""
    heading, better = metric.heading or metric.name.upper(), 1 if metric.higher_is_better else -1
    return [
        Column(
            f"{kind}/{metric.name}",
            f"{kind}_{metric.name}",
            f"{heading} {kind}",
            "quality",
            metric.decimals,
            better,
            f"{about}, against the truth",
            1.0,
            metric.unit,
            6,
        )
        for kind, about in KINDS.items()
    ]
