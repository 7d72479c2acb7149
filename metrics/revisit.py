"""How well a place is remembered: scores on revisit pairs, against the truth, and between a floor and a ceiling."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.outcome import Rollout
from harness.trajectory import RevisitPair, Trajectory
from metrics.column import Column
from metrics.frame import FrameMetric

EXACT = (1e-3, 0.05)  # metres and degrees below which a pose is the same one, and no gap is shown
COLUMNS = (
    Column("pairs", "pairs", "pairs", "quality", 1, 0, "scored revisit pairs of a trajectory, mean", rank=4),
    Column("gap/metres", "gap_m", "gap metres", "quality", 3, 0, "between the poses of first visit and revisit, mean over pairs"),
    Column("gap/degrees", "gap_deg", "gap degrees", "quality", 2, 0, "between the poses of first visit and revisit, mean over pairs"),
)


def scored(rollout: Rollout, trajectory: Trajectory) -> list[RevisitPair]:
    """The revisit pairs that lie within the rollout and whose later frame the model made."""
    return [p for p in trajectory.pairs if p.revisit < len(rollout.frames) and rollout.generated[p.revisit]]


def score_pairs(rollout: Rollout, trajectory: Trajectory, roundtrip: Float[Tensor, "n 3 y x"] | None, metrics: Sequence[FrameMetric]) -> list[dict[str, float]]:
    """One row per revisit pair whose later frame was generated.

    <metric>_revisit: first visit against revisit, in the same rollout. <metric>_reference: revisit against the true view.
    <metric>_floor: first visit against the rollout's most different view. <metric>_ceiling: the autoencoder's round trip of
    the true view (`roundtrip`, one frame per video frame) against the true view. What a world cannot give is left out.
    """
    pairs = scored(rollout, trajectory)
    if not pairs:
        return []
    first, again, other = (torch.tensor([getattr(p, k) for p in pairs]) for k in ("first", "revisit", "unrelated"))
    seen = _Seen()
    now = seen.add(rollout.frames, again)
    before = seen.add(rollout.frames, first)
    compared = {"revisit": (before, now), "floor": (before, seen.add(rollout.frames, other.clamp(max=len(rollout.frames) - 1)))}
    if trajectory.reference is not None:
        true = seen.add(trajectory.reference, again)
        compared["reference"] = (now, true)
        if roundtrip is not None:
            compared["ceiling"] = (seen.add(roundtrip, again), true)
    rows: list[dict[str, float]] = [
        {"first": p.first, "revisit": p.revisit, "gap_frames": p.revisit - p.first, "gap_metres": p.gap_metres, "gap_degrees": p.gap_degrees} for p in pairs
    ]
    images, (a, b) = seen.images(), (torch.stack(side) for side in zip(*compared.values(), strict=True))
    for metric in metrics:
        for against, values in zip(compared, metric.compare(images, a, b), strict=True):
            for row, value in zip(rows, values.tolist(), strict=True):
                row[f"{metric.name}_{against}"] = value
    return rows


def mean_scores(rows: list[dict[str, float]]) -> dict[str, float]:
    """Quality columns of one trajectory: the mean over its pairs."""
    names = [k for k in rows[0] if "_" in k and not k.startswith("gap_")] if rows else []
    return {f"quality/{k}": sum(r[k] for r in rows) / len(rows) for k in names}


def mean_gaps(rows: list[dict[str, float]]) -> dict[str, float]:
    """How far the poses of a trajectory's pairs really are apart, where they do not repeat exactly."""
    if not rows or all(r["gap_metres"] <= EXACT[0] and r["gap_degrees"] <= EXACT[1] for r in rows):
        return {}
    return {f"gap/{k}": sum(r[f"gap_{k}"] for r in rows) / len(rows) for k in ("metres", "degrees")}


class _Seen:
    """The frames that are compared, each once: pairs share first visits, and one revisit is compared three times."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, int], int] = {}
        self._images: list[Tensor] = []

    def add(self, source: Float[Tensor, "m 3 y x"], indices: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        """Where these frames of a source are among `images`."""
        for index in indices.tolist():
            if (id(source), index) not in self._found:
                self._found[id(source), index] = len(self._images)
                self._images.append(source[index])
        return torch.tensor([self._found[id(source), index] for index in indices.tolist()])

    def images(self) -> Float[Tensor, "k 3 y x"]:
        return torch.stack(self._images).contiguous(memory_format=torch.channels_last)  # SSIM takes three quarters of the time
