"""The comparison as text: the cells of every table, Markdown, LaTeX, CSV."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path

from harness.reporting.audit import audit_notes
from harness.reporting.columns import columns_of, leading
from harness.reporting.groups import Run, groups_of, other_weights, reasons
from harness.results.statistics import LEVEL, adjusted, detectable, fewest, needed, paired
from metrics.column import Column

BUSY = 0.05  # share of a run's seconds that it waited for a core, from which on tables say so


@dataclass(frozen=True)
class Row:
    """A run's row. cells, differences: text by column key; the difference is to the run of the baseline's name with the same
    world, seed and noise (`base`), with how many trajectories, * where it is significant, ~ within the noise band. best: the keys in which no
    comparable run is better."""

    run: Run
    base: Run | None
    cells: dict[str, str]
    differences: dict[str, str]
    best: set[str]


def rows(runs: list[Run], columns: list[Column], baseline: str) -> list[Row]:
    """By group, the best quality first."""
    found, main = [], leading(columns)
    for group in groups_of(runs):
        base = next((r for r in group if r.label == baseline), None)
        bands = {c.key: noise_band(runs, group, c) for c in columns if c.difference}
        stars = {c.key: {path for path, (_, q) in corrected(group, base, c).items() if q < LEVEL} for c in columns if c.difference}
        tops = {c.key: top for c in columns if (top := _best(group, c)) is not None}
        for run in sorted(group, key=lambda r: (-_quality(r, main), r.name)):
            best = {c.key for c in columns if not run.about["failed"] and (mine := run.summary.get(c.key)) and c.show(mine["mean"]) == tops.get(c.key)}
            differences = {c.key: _difference(run, base, c, run.path in stars[c.key], bands[c.key]) for c in columns if c.difference}
            cells = {c.key: _cell(run, c) for c in columns}
            found.append(Row(run, base, cells, differences, best))
    return found


def shown(runs: list[Run]) -> list[Column]:
    """Columns that any run has."""
    return columns_of(r.results for r in runs)


def headings(columns: Iterable[Column], baseline: str) -> list[str]:
    found = ["run"]
    for c in columns:
        found += [c.title] + ([f"{c.heading} to {baseline}"] if c.difference else [])
    return found


def home_group(runs: list[Run], baseline: str) -> list[Run]:
    """The largest group that has the baseline; without any, the largest."""
    groups = groups_of(runs)
    return next((g for g in groups if any(r.label == baseline for r in g)), groups[0])


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
    if busy := [f"{r.name} {100 * _waited(r):.0f} %" for r in runs if _waited(r) > BUSY]:
        found.append(f"other work ran on the machine, so speed says little; of its time, a run waited for a core: {', '.join(busy)}")
    for said in sorted({r.about["external"] for r in runs if "external" in r.about}):
        found.append(f"{', '.join(r.name for r in runs if r.about.get('external') == said)}: {said}")
    return found + failures(runs) + meaningless(home) + significance(home, baseline) + _band(runs, home) + audit_notes(home)


def significance(group: list[Run], baseline: str) -> list[str]:
    """What a star means, among how many, and which difference so many trajectories can show."""
    main, base = leading(shown(group)), next((r for r in group if r.label == baseline), None)
    entries = [entry for run in group if main and (entry := _paired(run, base, main)) and entry["sd"] is not None]
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
    found, entries = [], [(run, entry) for run in group if (entry := _paired(run, base, main))]
    for run, entry in entries:
        if entry["sd"] is not None:
            count = needed(entry["sd"], difference / main.factor, len(entries))
            effect = f"{difference:g} {main.unit} in {main.heading} to {baseline}"
            rough = ", so a rough guess" if entry["n"] < fewest(1) else ""
            found.append(f"{run.name}: {count} trajectories find {effect} in 8 of 10 cases (n={entry['n']} now{rough})")
    if not found:
        raise ValueError("one trajectory says nothing of how trajectories differ; evaluate two or more")
    return found


def markdown(runs: list[Run], baseline: str) -> str:
    columns = shown(runs)
    head = headings(columns, baseline)
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for row in rows(runs, columns, baseline):
        lines.append("| " + " | ".join(f"**{t}**" if best else t.replace("|", "\\|") for t, best in _flat(row, columns)) + " |")
    return "\n".join([*lines, "", *(f"- {n}" for n in notes(runs, baseline))])


def html(runs: list[Run], baseline: str, rank: int = 5) -> str:
    """A table of the columns up to a rank, for notebooks."""
    columns = [c for c in shown(runs) if c.rank < rank]
    head = "".join(f"<th>{escape(h)}</th>" for h in headings(columns, baseline))
    body = ""
    for row in rows(runs, columns, baseline):
        body += "<tr>" + "".join(f"<td>{f'<b>{escape(t)}</b>' if best else escape(t)}</td>" for t, best in _flat(row, columns)) + "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table(runs: list[Run], baseline: str) -> list[dict[str, str]]:
    """A row a run, the best quality first, every column as text under its heading."""
    columns = shown(runs)
    head = headings(columns, baseline)
    return [dict(zip(head, (text for text, _ in _flat(row, columns)), strict=True)) for row in rows(runs, columns, baseline)]


def latex(runs: list[Run], baseline: str) -> str:
    """A booktabs table."""
    columns = shown(runs)
    head = headings(columns, baseline)
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", " & ".join(map(_tex, head)) + r" \\", r"\midrule"]
    for row in rows(runs, columns, baseline):
        lines.append(" & ".join(rf"\textbf{{{_tex(t)}}}" if best else _tex(t) for t, best in _flat(row, columns)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", *(f"% {n}" for n in notes(runs, baseline))])


def comma_separated(runs: list[Run], baseline: str) -> str:
    """Plain numbers in base units: mean, interval, count, and the paired difference with its interval and count."""
    columns, text = shown(runs), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("mean", "low", "high", "n")
    heads = [[f"{c.key}/{p}" for p in parts] + ([f"{c.key}/difference/{p}" for p in (*parts, "p", "p_adjusted")] if c.difference else []) for c in columns]
    writer.writerow(["run", "folder", "group", *(name for head in heads for name in head)])
    for row in rows(runs, columns, baseline):
        group = [run for run in runs if run.group == row.run.group]
        cells = [row.run.name, row.run.path.name, row.run.group]
        for c in columns:
            for entry in (row.run.summary.get(c.key), _paired(row.run, row.base, c)) if c.difference else (row.run.summary.get(c.key),):
                cells += [entry["mean"], *(entry["ci95"] or ("", "")), entry["n"]] if entry else [""] * 4
            if c.difference:
                cells += corrected(group, row.base, c).get(row.run.path, ("", ""))
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def _quality(run: Run, main: Column | None) -> float:
    """More is better; a run without the column comes last."""
    entry = run.summary.get(main.key) if main else None
    return entry["mean"] * main.better if main and entry else -float("inf")


def _best(group: list[Run], c: Column) -> str | None:
    """The best value as it is shown, so that runs which look equal are both marked; None where nothing can be best: speeds of several devices or
    beside other work, a single run. Runs that lack trajectories are no candidates."""
    if not c.better or (c.timed and (len({r.about["device"] for r in group}) > 1 or any(_waited(r) > BUSY for r in group))):
        return None
    values = [e["mean"] * c.better for r in group if not r.about["failed"] and (e := r.summary.get(c.key))]
    return c.show(max(values) * c.better) if len(values) > 1 else None


def _waited(run: Run) -> float:
    """Share of a run's seconds in which other work had the cores."""
    return run.summary.get("cost/share_waited", {"mean": 0.0})["mean"]


def _cell(run: Run, c: Column) -> str:
    entry = run.summary.get(c.key)
    if entry is None:
        return "-"
    interval = f" [{c.show(entry['ci95'][0])}, {c.show(entry['ci95'][1])}]" if c.difference and entry["ci95"] else ""
    return c.show(entry["mean"]) + interval


def _paired(run: Run, base: Run | None, c: Column) -> dict | None:
    return None if base is None or base is run else paired(run.values, base.values, c.key)


def corrected(runs: list[Run], base: Run | None, c: Column) -> dict[Path, tuple[float, float]]:
    """By run, the p-value of its difference to the baseline, as it is and adjusted for how many are compared with it."""
    found = {run.path: p for run in runs if (entry := _paired(run, base, c)) and (p := entry["p"]) is not None}
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


def _difference(run: Run, base: Run | None, c: Column, significant: bool, band: float | None) -> str:
    entry = _paired(run, base, c)
    if entry is None:
        return "baseline" if base is run else "-"
    interval = f" [{', '.join(c.show(v, sign=True) for v in entry['ci95'])}]" if entry["ci95"] else ""
    marks = ("*" if significant else "") + ("~" if band is not None and abs(entry["mean"]) <= band else "")
    return f"{c.show(entry['mean'], sign=True)}{marks}{interval} ({entry['n']})"


def _flat(row: Row, columns: list[Column]) -> Iterable[tuple[str, bool]]:
    yield row.run.name, False
    for c in columns:
        yield row.cells[c.key], c.key in row.best
        if c.difference:
            yield row.differences[c.key], False


def _tex(text: str) -> str:
    escaped = {ch: "\\" + ch for ch in "_%&#${}"} | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    return "".join(escaped.get(ch, ch) for ch in text)
