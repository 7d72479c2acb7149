"""The noise band of a table in docs: how far policies are from themselves under other noise seeds."""

import json
from collections.abc import Sequence

from harness.reporting.columns import Column
from harness.reporting.table import FinishedRun
from harness.results.identity import deciding
from harness.results.statistics import paired

KEY = "other_seeds"  # of a table: by label and column, the largest difference of the same policy under another seed


def by_seed(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """The runs in lists, one a seed, the lowest seed first."""
    seeds = sorted({r.results["run"]["seed"] for r in runs})
    return [[r for r in runs if r.results["run"]["seed"] == seed] for seed in seeds]


def by_first_seed(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[FinishedRun]]:
    """The runs of the lowest seed, which are the table's rows, and those of other seeds, which say how much noise there is."""
    first, *others = by_seed(runs) or [[]]
    return first, [r for seed in others for r in seed]


def from_themselves(runs: Sequence[FinishedRun], others: Sequence[FinishedRun], keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """By label and column, how far a policy is from itself under another seed, at most: means over the trajectories that both seeds have.
    Raises ValueError for a run whose policy has none of the first seed, or that differs from it by more than the seed."""
    rows = {r.label: r for r in runs}
    found: dict[str, dict[str, float]] = {}
    for other in others:
        if other.label not in rows:
            seeds = f"seed {other.results['run']['seed']} but not seed {runs[0].results['run']['seed']}"
            raise ValueError(f"{other.path}: `{other.label}` was run with {seeds}; run it with both, or leave that run out")
        if wrong := [what for what, known in _told(other).items() if known != _told(rows[other.label])[what]]:
            raise ValueError(f"{other.path} and {rows[other.label].path} differ in {', '.join(wrong)}, not by the seed alone; make both anew, or leave one out")
        mine = found.setdefault(other.label, {})
        for key in keys:
            if entry := paired(other.values, rows[other.label].values, key):
                mine[key] = max(mine.get(key, 0.0), abs(entry["mean"]))
    return found


def _told(run: FinishedRun) -> dict[str, str]:
    """What two runs of a policy that differ by the seed alone have in common."""
    about = run.results["run"]
    settings = {k: v for k, v in deciding(about["config"]).items() if k != "seed"}
    told = {"settings": settings, "weights": about.get("weights"), "trajectories": about["trajectories"]}
    return {what: json.dumps(value, sort_keys=True) for what, value in told.items()}


def band(table: dict, key: str) -> float | None:
    """The largest of them; None where no policy was run under a second seed."""
    return max((entry[key] for entry in table.get(KEY, {}).values() if key in entry), default=None)


def noise_note(table: dict, shown: Sequence[Column]) -> str:
    """What ~ means in this table; empty where no policy was run under a second seed."""
    bands = [f"{_shown(c, b)} in {c.heading}" for c in shown if (b := band(table, c.key)) is not None]
    if not bands:
        return ""
    labels = ", ".join(f"`{label}`" for label in sorted(table[KEY]))
    return f" ~ within the noise band: under another noise seed, runs of {labels} differ from those shown by up to {', '.join(bands)}."


def _shown(c: Column, value: float) -> str:
    """With one digit more than the column has, since it is small."""
    text = f"{c.factor * value:.{c.decimals + 1}f}"
    return f"{text} {c.unit}" if c.unit else text
