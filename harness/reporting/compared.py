"""What is compared of runs: columns, groups, paired differences, and how far a run is from itself under other seeds."""

import json
from itertools import combinations
from pathlib import Path

from harness.reporting.columns import columns_of
from harness.reporting.groups import Run, groups_of
from harness.results.statistics import adjusted, paired
from metrics.column import Column


def shown(runs: list[Run]) -> list[Column]:
    """Columns that any run has."""
    return columns_of(r.results for r in runs)


def home_group(runs: list[Run], baseline: str) -> list[Run]:
    """The largest group that has the baseline; without any, the largest."""
    groups = groups_of(runs)
    return next((g for g in groups if any(r.label == baseline for r in g)), groups[0])


def paired_runs(run: Run, base: Run | None, c: Column) -> dict | None:
    return None if base is None or base is run else paired(run.values, base.values, c.key)


def corrected(runs: list[Run], base: Run | None, c: Column) -> dict[Path, tuple[float, float]]:
    """By run, the p-value of its difference to the baseline, as it is and adjusted for how many are compared with it."""
    found = {run.path: p for run in runs if (entry := paired_runs(run, base, c)) and (p := entry["p"]) is not None}
    return {path: (p, q) for (path, p), q in zip(found.items(), adjusted(list(found.values())), strict=True) if q is not None}


def noise_band(runs: list[Run], group: list[Run], c: Column) -> float | None:
    """How far a policy of this group is from itself under another noise seed, at most: the largest difference of means over trajectories that
    both seeds have. None where none was run with two seeds."""
    families: dict[str, list[Run]] = {}
    for run in runs:
        families.setdefault(json.dumps({k: v for k, v in run.settings.items() if k != "seed"}, sort_keys=True), []).append(run)
    seeds = [
        (a, b) for family in families.values() if any(r in group for r in family) for a, b in combinations(family, 2) if a.about["seed"] != b.about["seed"]
    ]
    found = [abs(entry["mean"]) for a, b in seeds if (entry := paired(a.values, b.values, c.key))]
    return max(found, default=None)
