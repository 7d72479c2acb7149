"""The comparison as text: the cells of every table, Markdown, LaTeX, CSV."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from harness.reporting.columns import leading
from harness.reporting.compared import corrected, noise_band, paired_runs, shown
from harness.reporting.groups import Run, groups_of
from harness.reporting.notes import BUSY, notes, waited
from harness.results.statistics import LEVEL
from metrics.column import Column


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


def headings(columns: Iterable[Column], baseline: str) -> list[str]:
    found = ["run"]
    for c in columns:
        found += [c.title] + ([f"{c.heading} to {baseline}"] if c.difference else [])
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
            for entry in (row.run.summary.get(c.key), paired_runs(row.run, row.base, c)) if c.difference else (row.run.summary.get(c.key),):
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
    if not c.better or (c.timed and (len({r.about["device"] for r in group}) > 1 or any(waited(r) > BUSY for r in group))):
        return None
    values = [e["mean"] * c.better for r in group if not r.about["failed"] and (e := r.summary.get(c.key))]
    return c.show(max(values) * c.better) if len(values) > 1 else None


def _cell(run: Run, c: Column) -> str:
    entry = run.summary.get(c.key)
    if entry is None:
        return "-"
    interval = f" [{c.show(entry['ci95'][0])}, {c.show(entry['ci95'][1])}]" if c.difference and entry["ci95"] else ""
    return c.show(entry["mean"]) + interval


def _difference(run: Run, base: Run | None, c: Column, significant: bool, band: float | None) -> str:
    entry = paired_runs(run, base, c)
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
