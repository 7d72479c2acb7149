"""Recall against how long ago and from how far away a view was seen: curves of results.json, W&B and recall.png."""

from collections.abc import Sequence
from math import frexp
from statistics import mean, stdev
from typing import Literal

from harness.results.statistics import t_quantile

Probes = Sequence[Sequence[dict[str, float]]]  # of a run: a row a probe, by trajectory
Axis = Literal["gap", "metres"]


def binned(probes: Probes, score: str, axis: Axis = "gap") -> dict[int, tuple[float, float, int]]:
    """Mean over trajectories, half of its 95 % t interval (NaN of one trajectory: no interval) and their number, by the greatest power of two that
    a probe's gap (chunks) or distance (metres) is not below; 0 below 1."""
    pooled: dict[int, list[float]] = {}
    for rows in probes:
        found: dict[int, list[float]] = {}
        for row in rows:
            if score in row and axis in row:
                found.setdefault(_bin(row[axis]), []).append(row[score])
        for start, values in found.items():
            pooled.setdefault(start, []).append(mean(values))
    return {at: (mean(v), t_quantile(len(v)) * stdev(v) / len(v) ** 0.5 if len(v) > 1 else float("nan"), len(v)) for at, v in sorted(pooled.items())}


def recall_curves(probes: Probes) -> dict[str, dict[str, list[dict]]]:
    """By score (`recall/psnr`) and axis, a point a bin: its lower end `from`, `mean`, `ci95` (None of a single trajectory) and `n`, the trajectories."""
    from metrics.column import recalled  # not before: where the folder one stands in has a `metrics` of its own, that is said elsewhere

    axes: tuple[Axis, ...] = ("gap", "metres")
    scores = recalled(row for rows in probes for row in rows)
    return {f"recall/{score}": {axis: [_point(*item) for item in binned(probes, score, axis).items()] for axis in axes} for score in scores}


def _point(start: int, value: tuple[float, float, int]) -> dict:
    middle, half, n = value
    return {"from": start, "mean": middle, "ci95": [middle - half, middle + half] if n > 1 else None, "n": n}


def _bin(value: float) -> int:
    return 2 ** (frexp(value)[1] - 1) if value >= 1 else 0
