"""The columns of a comparison, for every view: as the runs describe them, and the metric classes for runs that do not.

What a column is called, its unit, its digits and its direction are said beside the metric (`FrameMetric`, `RolloutMetric`) and
the cost function; `results.json` repeats it, so that a comparison can be read where the metric is not installed.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from functools import cache

from metrics import cost
from metrics.column import GROUPS, Column

ENDS = ("floor", "ceiling")


def columns_of(runs: Iterable[dict], also: Collection[str] = ()) -> list[Column]:
    """The columns that any of these results has a value for, in the order of tables. also: short names of others to have."""
    found: dict[str, Column] = {}
    present: set[str] = set()
    for results in runs:
        present |= results["summary"].keys()
        described = results.get("columns") or []
        for column in map(_column, described) if described else _undescribed(results["summary"]):
            found.setdefault(column.key, column)
    return sorted((c for c in found.values() if c.key in present or c.name in also), key=lambda c: GROUPS.index(c.group))


def costs() -> list[Column]:
    """The columns that every run has, whatever its metrics are."""
    return list(cost.COLUMNS)


@cache
def shipped() -> list[Column]:
    """The columns of the metrics that come with the harness."""
    from metrics.metric_set import shipped  # takes seconds (torch)

    return shipped()


def leading(columns: Sequence[Column]) -> Column | None:
    """The column that runs are sorted by: the quality that stays the longest where there is no room."""
    return min((c for c in columns if c.group == "quality" and c.better), key=lambda c: c.rank, default=None)


def revisits(columns: Sequence[Column]) -> list[Column]:
    """The qualities that every revisit pair has, the leading one first: those of which curves and videos can be drawn."""
    return sorted((c for c in columns if c.key.startswith("quality/") and c.key.endswith("_revisit") and c.better), key=lambda c: c.rank)


def ends_of(columns: Sequence[Column], summary: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Floor (an unrelated view) and ceiling (the autoencoder's round trip) of the columns that have them: by end and the column's key."""
    found = {end: {c.key: summary[key]["mean"] for c in columns if (key := getattr(c, end)) in summary} for end in ENDS}
    return {end: values for end, values in found.items() if values}


def _column(entry: dict) -> Column:
    known = {f.name for f in fields(Column)}
    return Column(**{k: v for k, v in entry.items() if k in known})


def _undescribed(summary: dict[str, dict]) -> list[Column]:
    """Of a folder that was written before columns were described: those of the metrics that come with the harness, and plain
    ones for others, whose direction nobody knows."""
    known = shipped()
    names = {c.key for c in known} | {getattr(c, end) for c in known for end in ENDS}
    ends = tuple(f"_{end}" for end in ENDS)
    plain = [k for k in summary if k.startswith("quality/") and k not in names and not k.endswith(ends)]
    return [*known, *(Column(k, k.removeprefix("quality/"), k.removeprefix("quality/").replace("_", " "), "quality", 3) for k in plain)]
