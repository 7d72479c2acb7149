"""Intervals over trajectories: bootstrap means, and paired differences between runs."""

from collections.abc import Sequence
from functools import cache, lru_cache
from math import log2
from typing import Any

import numpy as np

POWER = 0.8
MOST = 20_000  # trajectories
LEVEL = 0.05  # below which an adjusted p-value is called significant


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
    """Interval of the difference mine - other over the trajectories that both have, its standard deviation `sd` and its p-value `p`
    (None of a single one)."""
    names = sorted(n for n in mine.keys() & other.keys() if key in mine[n] and key in other[n])
    if not names:
        return None
    differences = tuple(mine[n][key] - other[n][key] for n in names)
    return interval(differences) | {"sd": float(np.std(differences, ddof=1)) if len(names) > 1 else None, "p": p_value(differences)}


@lru_cache(4096)
def p_value(differences: tuple[float, ...]) -> float | None:
    """Two-sided sign-flip test of a mean of zero: whether the two runs could be exchanged on every trajectory. Exact up to 13
    trajectories, else by 9,999 random flips (seeded). None of a single one."""
    from scipy.stats import permutation_test  # takes a second

    x = np.asarray(differences, dtype=float)
    if len(x) < 2:
        return None
    if not x.any():
        return 1.0

    def mean(values: np.ndarray, axis: int) -> np.ndarray:
        return values.mean(axis)

    return float(permutation_test((x,), mean, permutation_type="samples", n_resamples=9999, vectorized=True, rng=np.random.default_rng(0)).pvalue)


def adjusted(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values of one family of comparisons after Benjamini and Hochberg: below 0.05, at most 5 % of what is called different is not."""
    from scipy.stats import false_discovery_control

    known = [p for p in p_values if p is not None]
    found = iter(false_discovery_control(known).tolist() if known else [])
    return [None if p is None else next(found) for p in p_values]


@cache
def t_quantile(n: int) -> float:
    """How many standard errors a 95 % interval of the mean of n values reaches to either side: 12.7 of two, 2.07 of 24."""
    from scipy.stats import t

    return float(t.ppf(0.975, n - 1))


def fewest(comparisons: int) -> int:
    """Trajectories below which a lone difference among so many comparisons cannot be significant, however large: n sign flips give p = 2 / 2^n at
    best, and the adjustment multiplies it by the number of comparisons."""
    return int(log2(2 * max(1, comparisons) / LEVEL)) + 1


def detectable(sd: float, n: int, comparisons: int = 1) -> float:
    """The smallest mean difference that a paired t-test over n trajectories finds in 8 of 10 cases at p < 0.05 / comparisons, which is what a lone difference
    needs after the adjustment; infinite below `fewest`. sd: of the differences."""
    from scipy.optimize import brentq

    if n < fewest(comparisons):
        return float("inf")
    level = LEVEL / max(1, comparisons)
    centre: Any = brentq(lambda away: _power(away, n, level) - POWER, 1e-6, 100)
    return sd * centre / n**0.5


def needed(sd: float, difference: float, comparisons: int = 1) -> int:
    """Trajectories for which `detectable` is at most this difference. Raises ValueError for a difference of nothing."""
    if difference <= 0:
        raise ValueError(f"a difference of {difference} needs endless trajectories; give one above 0")
    n = fewest(comparisons)
    while detectable(sd, n, comparisons) > difference:
        n = max(n + 1, round(n * 1.02))
        if n > MOST:
            raise ValueError(f"a difference of {difference} where differences spread by {sd:.3g} needs more than {MOST} trajectories; give a larger one")
    return n


def _power(away: float, n: int, level: float) -> float:
    """Of a two-sided paired t-test, less the cases in which it finds the wrong sign. away: the mean difference in standard errors."""
    from scipy.stats import nct, t

    return float(nct.sf(t.ppf(1 - level / 2, n - 1), n - 1, away))
