"""Intervals over trajectories: bootstrap means, and paired differences between runs."""

from collections.abc import Sequence

import numpy as np


def summarise(rows: list[dict[str, float]]) -> dict[str, dict]:
    """Mean, 95 % bootstrap interval and count over trajectories, for every column that any of them has."""
    keys = sorted({k for row in rows for k in row})
    return {k: interval([row[k] for row in rows if k in row]) for k in keys}


def interval(values: Sequence[float], resamples: int = 2000) -> dict:
    """Mean with a percentile bootstrap interval over trajectories (seeded, so that it repeats); None of a single one, which has no spread."""
    x = np.asarray(values, dtype=float)
    if len(x) == 1:
        return {"mean": float(x[0]), "ci95": None, "n": 1}
    picks = np.random.default_rng(0).integers(len(x), size=(resamples, len(x)))
    low, high = np.percentile(x[picks].mean(1), [2.5, 97.5])
    return {"mean": float(x.mean()), "ci95": [float(low), float(high)], "n": len(x)}


def paired(mine: dict[str, dict[str, float]], other: dict[str, dict[str, float]], key: str) -> dict | None:
    """Interval of the difference mine - other over the trajectories that both have."""
    names = sorted(n for n in mine.keys() & other.keys() if key in mine[n] and key in other[n])
    return interval([mine[n][key] - other[n][key] for n in names]) if names else None
