"""The substitution audit in words: whose gain is memory, and what could not be replaced."""

from collections.abc import Sequence

from harness.reporting.columns import columns_of
from harness.reporting.groups import Run
from harness.results.statistics import LEVEL, adjusted, p_value
from metrics.column import ARMS, Column


def audit_notes(runs: Sequence[Run]) -> list[str]:
    """A line a run that was audited, in its leading score. p-values: sign flips over trajectories of right minus replaced, adjusted over all of these."""
    columns = {c.key: c for c in columns_of(r.results for r in runs) if c.key.startswith("audit/")}
    lead = min(columns.values(), key=lambda c: c.rank, default=None)
    audited = [r for r in runs if r.about.get("unaudited") or any(k in r.summary for k in columns)]
    if lead is None:
        return [note for run in audited if (note := _line(run, {}, {}))]
    score = lead.key.removeprefix("audit/").rpartition("_")[0]
    chosen = {arm: columns[key] for arm in ARMS if (key := f"audit/{score}_{arm}") in columns}
    cells = [(run, arm) for run in audited for arm, c in chosen.items() if c.key in run.summary]
    tests = [p_value(tuple(v[chosen[arm].key] for v in run.values.values() if chosen[arm].key in v)) for run, arm in cells]
    sure = {(run.path, arm): q is not None and q < LEVEL for (run, arm), q in zip(cells, adjusted(tests), strict=True)}
    lines = [_line(run, chosen, {arm: sure.get((run.path, arm), False) for arm in chosen}) for run in audited]
    few = min((run.summary[chosen[arm].key]["n"] for run, arm in cells), default=0)
    star = f"* adjusted p < {LEVEL} over {len(cells)} comparisons, {few} trajectories and more"
    return [*lines, f"audit: recall with the right pages less recall with others in their place, in {lead.heading.split(' over')[0]}; {star}"] if lines else []


def _line(run: Run, columns: dict[str, Column], sure: dict[str, bool]) -> str:
    said, better = [], {}
    for arm, c in columns.items():
        if (entry := run.summary.get(c.key)) is not None:
            interval = f" [{', '.join(c.show(v, sign=True) for v in entry['ci95'])}]" if entry["ci95"] else ""
            said.append(f"{arm} {c.show(entry['mean'], sign=True)}{'*' if sure[arm] else ''}{interval}")
            better[arm] = sure[arm] and entry["mean"] * c.better > 0
    against = next((arm for arm in ("wrong", "other") if arm in better), None)
    if against is None:
        verdict = "not compared with wrong pages"
    elif better[against]:
        verdict = f"its gain is memory: the right pages beat {ARMS[against]}"
    else:
        verdict = f"no memory is shown: the right pages do not beat {ARMS[against]}"
    missed = "".join(f"; {arm} does not apply: {why}" for arm, why in run.about.get("unaudited", {}).items())
    return f"audit of {run.name}: {', '.join(said)}{'; ' if said else ''}{verdict}{missed}"
