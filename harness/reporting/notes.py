"""What is said below a comparison: what is not comparable, what a star means, and how many trajectories show a difference."""

from harness.reporting.audit import audit_notes
from harness.reporting.columns import leading
from harness.reporting.compared import home_group, noise_band, paired_runs, shown
from harness.reporting.groups import Run, groups_of, other_weights, reasons
from harness.results.statistics import LEVEL, detectable, fewest, needed

BUSY = 0.05  # share of a run's seconds that it waited for a core, from which on tables say so


def notes(runs: list[Run], baseline: str) -> list[str]:
    """What is not comparable, and why."""
    groups, found, home = groups_of(runs), [], home_group(runs, baseline)
    for group in groups:
        if group[0].group != home[0].group:
            why = "; ".join(reasons(group[0], home[0])[:4])
            against = f"compared with the {baseline} of their own" if any(r.label == baseline for r in group) else f"no {baseline} to compare with"
            found.append(f"{len(group)} runs are not comparable with the others ({why}): {against}")
    found += filter(None, map(other_weights, groups))
    if len(devices := {r.about["device"] for r in runs}) > 1:
        found.append(f"speed was measured on {len(devices)} devices and is not comparable between them: {'; '.join(sorted(devices))}")
    if busy := [f"{r.name} {100 * waited(r):.0f} %" for r in runs if waited(r) > BUSY]:
        found.append(f"other work ran on the machine, so speed says little; of its time, a run waited for a core: {', '.join(busy)}")
    for said in sorted({r.about["external"] for r in runs if "external" in r.about}):
        found.append(f"{', '.join(r.name for r in runs if r.about.get('external') == said)}: {said}")
    return found + failures(runs) + meaningless(home) + significance(home, baseline) + _band(runs, home) + audit_notes(home)


def failures(runs: list[Run]) -> list[str]:
    """Which runs lack trajectories, whose means are therefore of others."""
    return [f"{r.name}: {len(r.about['failed'])} trajectories failed and are missing" for r in runs if r.about["failed"]]


def meaningless(runs: list[Run]) -> list[str]:
    """Where no run is better than an unrelated view, as of an untrained model."""
    main = leading(shown(runs))
    scored = [(e["mean"], floor["mean"]) for r in runs if main and (e := r.summary.get(main.key)) and (floor := r.summary.get(main.floor))]
    if main is None or not scored or any((mean - floor) * main.better > 0 for mean, floor in scored):
        return []
    return [f"no run's {main.heading} is better than the floor, an unrelated view of its rollout (as of an untrained model): quality means nothing here"]


def significance(group: list[Run], baseline: str) -> list[str]:
    """What a star means, among how many, and which difference so many trajectories can show."""
    main, base = leading(shown(group)), next((r for r in group if r.label == baseline), None)
    entries = [entry for run in group if main and (entry := paired_runs(run, base, main)) and entry["sd"] is not None]
    if main is None or not entries:
        return []
    count = len(entries)
    middle = sorted(entries, key=lambda entry: detectable(entry["sd"], entry["n"], count))[count // 2]
    said = f"* differs from {baseline}: adjusted p < {LEVEL} (sign flips over trajectories, Benjamini-Hochberg over {count} comparisons)"
    if middle["n"] < fewest(count):
        return [f"{said}; {middle['n']} trajectories cannot show it, {fewest(count)} can"]
    least = main.show(detectable(middle["sd"], middle["n"], count))
    return [f"{said}; {middle['n']} trajectories find a difference of {least} {main.unit} in {main.heading} in 8 of 10 cases (median run)"]


def _band(runs: list[Run], group: list[Run]) -> list[str]:
    main = leading(shown(runs))
    band = noise_band(runs, group, main) if main else None
    if main is None or band is None:
        return []
    return [f"~ lies within the noise band: the same policy under another seed differs by up to {main.show(band)} {main.unit} in {main.heading}"]


def wanted(group: list[Run], baseline: str, difference: float, column: str = "") -> list[str]:
    """How many trajectories each run needs to be told from the baseline by a difference in a column (the leading one), in its unit.

    Raises ValueError without a baseline, for single trajectories, for a column that is not compared, and for a difference of nothing.
    """
    compared = {c.key: c for c in shown(group) if c.difference}
    if column and column not in compared:
        raise ValueError(f"{column} is no column that runs are compared in; choose one of {', '.join(compared)}")
    main, base = compared[column] if column else leading(shown(group)), next((r for r in group if r.label == baseline), None)
    if main is None or base is None:
        raise ValueError(f"there is no run of {baseline} to differ from; choose one of {', '.join(r.label for r in group)} as --baseline")
    found, entries = [], [(run, entry) for run in group if (entry := paired_runs(run, base, main))]
    for run, entry in entries:
        if entry["sd"] is not None:
            count = needed(entry["sd"], difference / main.factor, len(entries))
            effect = f"{difference:g} {main.unit} in {main.heading} to {baseline}"
            rough = ", so a rough guess" if entry["n"] < fewest(1) else ""
            found.append(f"{run.name}: {count} trajectories find {effect} in 8 of 10 cases (n={entry['n']} now{rough})")
    if not found:
        raise ValueError("one trajectory says nothing of how trajectories differ; evaluate two or more")
    return found


def waited(run: Run) -> float:
    """Share of a run's seconds in which other work had the cores."""
    return run.summary.get("cost/share_waited", {"mean": 0.0})["mean"]
