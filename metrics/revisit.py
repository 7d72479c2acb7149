"""How well a place is remembered: scores on revisit pairs, against the truth, and between a floor and a ceiling."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import RevisitPair, Rollout, Trajectory
from metrics.frame import FrameMetric


def scored(rollout: Rollout, trajectory: Trajectory) -> list[RevisitPair]:
    """The revisit pairs that lie within the rollout and whose later frame the model made."""
    return [p for p in trajectory.pairs if p.revisit < len(rollout.frames) and rollout.generated[p.revisit]]


def score_pairs(rollout: Rollout, trajectory: Trajectory, roundtrip: Float[Tensor, "n 3 y x"] | None, metrics: Sequence[FrameMetric]) -> list[dict[str, float]]:
    """One row per revisit pair whose later frame was generated.

    <metric>_revisit: first visit against revisit, in the same rollout. <metric>_reference: revisit against the true view.
    <metric>_floor: first visit against the rollout's most different view. <metric>_ceiling: the codec's round trip of
    the true view (`roundtrip`, one frame per video frame) against the true view. What a world cannot give is left out.
    """
    pairs = scored(rollout, trajectory)
    if not pairs:
        return []
    frames, truth = rollout.frames, trajectory.reference
    first, again, other = (torch.tensor([getattr(p, k) for p in pairs]) for k in ("first", "revisit", "unrelated"))
    compared = {"revisit": (frames[first], frames[again]), "floor": (frames[first], frames[other.clamp(max=len(frames) - 1)])}
    if truth is not None:
        compared["reference"] = (frames[again], truth[again])
        if roundtrip is not None:
            compared["ceiling"] = (roundtrip[again], truth[again])
    rows: list[dict[str, float]] = [
        {"first": p.first, "revisit": p.revisit, "gap_frames": p.revisit - p.first, "gap_metres": p.gap_metres, "gap_degrees": p.gap_degrees} for p in pairs
    ]
    for metric in metrics:
        for against, (a, b) in compared.items():
            for row, value in zip(rows, metric.score(a, b).tolist(), strict=True):
                row[f"{metric.name}_{against}"] = value
    return rows


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Quality columns of one trajectory: the mean over its pairs."""
    names = [k for k in rows[0] if "_" in k and not k.startswith("gap_")] if rows else []
    return {f"quality/{k}": sum(r[k] for r in rows) / len(rows) for k in names}
