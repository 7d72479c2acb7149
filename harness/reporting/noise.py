"""The noise band of a table in docs: how far policies are from themselves under other noise seeds."""

import json
from collections.abc import Sequence

from harness.reporting.columns import Column
from harness.reporting.table import Run
from harness.results.statistics import paired

KEY = "other_seeds"  # of a table: by label and column, the largest difference of the same policy under another seed


def by_first_seed(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the lowest seed, which are the table's rows, and those of other seeds, which say how much noise there is."""
    first = min((r.results["run"]["seed"] for r in runs), default=0)
    return [r for r in runs if r.results["run"]["seed"] == first], [r for r in runs if r.results["run"]["seed"] != first]


def from_themselves(runs: Sequence[Run], others: Sequence[Run], keys: Sequence[str]) -> dict[str, dict[str, float]]:
    """By label and column, how far a policy is from itself under another seed, at most: means over the trajectories that both seeds have.
    Raises ValueError for a run whose policy has none of the first seed."""
    rows = {r.label: r for r in runs}
    weights = {json.dumps(r.results["run"].get("weights", {}).get("weights")) for r in [*runs, *others]}
    if len(weights) > 1:
        raise ValueError(f"{others[0].path.parent} mixes weights; runs of other seeds must be of the same model")
    found: dict[str, dict[str, float]] = {}
    for other in others:
        if other.label not in rows:
            seeds = f"seed {other.results['run']['seed']} but not seed {runs[0].results['run']['seed']}"
            raise ValueError(f"{other.path}: `{other.label}` was run with {seeds}; run it with both, or leave that run out")
        mine = found.setdefault(other.label, {})
        for key in keys:
            if entry := paired(other.values, rows[other.label].values, key):
                mine[key] = max(mine.get(key, 0.0), abs(entry["mean"]))
    return found


def band(table: dict, key: str) -> float | None:
    """The largest of them; None where no policy was run under a second seed."""
    return max((entry[key] for entry in table.get(KEY, {}).values() if key in entry), default=None)


def noise_note(table: dict, shown: Sequence[Column]) -> str:
    """What ~ means in this table; empty where no policy was run under a second seed."""
    bands = [f"{c.show(b)}{f' {c.unit}' if c.unit else ''} in {c.heading}" for c in shown if (b := band(table, c.key)) is not None]
    if not bands:
        return ""
    labels = ", ".join(f"`{label}`" for label in sorted(table[KEY]))
    return f" ~ within the noise band: under another noise seed, runs of {labels} differ from those shown by up to {', '.join(bands)}."
