"""The substitution audit in words: whose gain is memory, and what could not be replaced."""

from collections.abc import Mapping, Sequence

from harness.reporting.columns import columns_of
from harness.reporting.groups import Run
from harness.results.statistics import LEVEL, adjusted, fewest, p_value
from metrics.column import ARMS, Column

AGAINST = {"": "", "_true": "against the true view: "}


def audit_notes(runs: Sequence[Run]) -> list[str]:
    """A line a run that was audited, in its leading score. p-values: sign flips over trajectories of right minus replaced, adjusted over all of these."""
    columns = {c.key: c for c in columns_of(r.results for r in runs) if c.key.startswith("audit/")}
    audited = [r for r in runs if r.about.get("unaudited") or any(k in r.summary for k in columns)]
    if not audited:
        return []
    lead = min(columns.values(), key=lambda c: c.rank, default=None)
    score = lead.key.removeprefix("audit/").rpartition("_")[0].removesuffix("_true") if lead else ""
    chosen = {(end, arm): columns[key] for end in AGAINST for arm in ARMS if (key := f"audit/{score}{end}_{arm}") in columns}
    cells = [(run, where) for run in audited for where, c in chosen.items() if c.key in run.summary]
    tests = [p_value(tuple(v[chosen[where].key] for v in run.values.values() if chosen[where].key in v)) for run, where in cells]
    sure = {(run.path, where) for (run, where), q in zip(cells, adjusted(tests), strict=True) if q is not None and q < LEVEL}
    lines = [_line(run, chosen, {where for path, where in sure if path == run.path}, len(cells)) for run in audited]
    star = f"* adjusted p < {LEVEL} (sign flips over trajectories, Benjamini-Hochberg over {len(cells)} comparisons)"
    return [*lines, f"audit: recall with the right pages less recall with others in their place, {score.upper()}; {star}"] if cells else lines


def _line(run: Run, columns: Mapping[tuple[str, str], Column], sure: set[tuple[str, str]], comparisons: int) -> str:
    said = []
    for end, about in AGAINST.items():
        here = {arm: c for (where, arm), c in columns.items() if where == end and c.key in run.summary}
        if here:
            said.append(about + ", ".join(f"{arm} {_shown(run.summary[c.key], c, (end, arm) in sure)}" for arm, c in here.items()))
    missed = [f"{arm} does not apply: {why}" for arm, why in run.about.get("unaudited", {}).items()]
    return f"audit of {run.name}: {'; '.join([*said, _verdict(run, columns, sure, comparisons), *missed])}"


def _shown(entry: dict, column: Column, is_sure: bool) -> str:
    interval = f" [{', '.join(column.show(v, sign=True) for v in entry['ci95'])}]" if entry["ci95"] else ""
    return f"{column.show(entry['mean'], sign=True)}{'*' if is_sure else ''}{interval}"


def _verdict(run: Run, columns: Mapping[tuple[str, str], Column], sure: set[tuple[str, str]], comparisons: int) -> str:
    """A gain is memory where the right pages beat the wrong ones: against the first visit, of probes from beside against the truth."""
    where = next(((end, arm) for end in AGAINST for arm in ("wrong", "other") if (c := columns.get((end, arm))) and c.key in run.summary), None)
    if where is None:
        return "not compared with wrong pages"
    entry, column = run.summary[columns[where].key], columns[where]
    if where in sure and entry["mean"] * column.better > 0:
        return f"its gain is memory, the right pages beat {ARMS[where[1]]}"
    if entry["n"] < (least := fewest(comparisons)):
        return f"undecided, {entry['n']} trajectories cannot show whether this is memory, {least} can"
    if entry["ci95"] and min(end * column.better for end in entry["ci95"]) > 0:
        return f"undecided, the right pages beat {ARMS[where[1]]}, but not significantly among {comparisons} comparisons"
    return f"no memory is shown, the right pages do not beat {ARMS[where[1]]}"
