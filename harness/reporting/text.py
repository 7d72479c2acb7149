"""The comparison as text: a terminal table, Markdown, LaTeX, CSV."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from harness.reporting.columns import COLUMNS, SPEED, Column
from harness.reporting.groups import Run, groups_of, reasons
from harness.results.statistics import paired


@dataclass(frozen=True)
class Row:
    """A run's row. cells, differences: text by column key; the difference is to the run of the baseline's name with the same
    world, seed and noise (`base`), with how many trajectories. best: the keys in which no comparable run is better."""

    run: Run
    base: Run | None
    cells: dict[str, str]
    differences: dict[str, str]
    best: set[str]


def rows(runs: list[Run], columns: list[Column], baseline: str) -> list[Row]:
    """By group, the best PSNR first."""
    found = []
    for group in groups_of(runs):
        base = next((r for r in group if r.label == baseline), None)
        tops = {c.key: top for c in columns if (top := _best(group, c)) is not None}
        for run in sorted(group, key=lambda r: (-_mean(r, "quality/psnr_revisit", 0.0), r.name)):
            best = {c.key for c in columns if (mine := entry_of(run, c.key)) and c.show(mine["mean"]) == tops.get(c.key)}
            differences = {c.key: _difference(run, base, c) for c in columns if c.difference}
            cells = {c.key: _cell(run, c) for c in columns}
            found.append(Row(run, base, cells, differences, best))
    return found


def shown(runs: list[Run]) -> list[Column]:
    """Columns that any run has."""
    present = {k for r in runs for v in r.values.values() for k in v} | {k for r in runs for k in r.summary}
    return [c for c in COLUMNS if c.key in present]


def headings(columns: Iterable[Column], baseline: str) -> list[str]:
    found = ["run"]
    for c in columns:
        found += [f"{c.heading} ({c.unit})" if c.unit else c.heading] + ([f"to {baseline}"] if c.difference else [])
    return found


def notes(runs: list[Run], baseline: str) -> list[str]:
    """What is not comparable, and why."""
    groups, found = groups_of(runs), []
    home = next((g for g in groups if any(r.label == baseline for r in g)), groups[0])
    for group in groups:
        if group is not home:
            why = "; ".join(reasons(group[0], home[0])[:4])
            against = f"compared with the {baseline} of their own" if any(r.label == baseline for r in group) else f"no {baseline} to compare with"
            found.append(f"{len(group)} runs are not comparable with the others ({why}): {against}")
    if len(devices := {r.about["device"] for r in runs}) > 1:
        found.append(f"speed was measured on {len(devices)} devices and is not comparable between them: {'; '.join(sorted(devices))}")
    failed = {r.name: len(r.about["failed"]) for r in runs if r.about["failed"]}
    found += [f"{name}: {count} trajectories failed and are missing" for name, count in failed.items()]
    return found


def terminal(title: str, runs: list[Run], baseline: str) -> Group:
    """Quality with differences above cost; best values in green."""
    columns, parts = shown(runs), []
    for part, kinds in (("quality", ("quality",)), ("cost", ("cost", "memory", "budget"))):
        chosen = [c for c in columns if c.group in kinds]
        table = Table(title=f"{title}: {part}; mean [95 % interval], differences paired, (n) trajectories" if part == "quality" else f"{title}: {part}")
        for i, heading in enumerate(headings(chosen, baseline)):
            table.add_column(heading, justify="right" if i else "left", overflow="fold")
        group = 0
        for row in rows(runs, chosen, baseline):
            if row.run.group != group:
                table.add_section()
                group = row.run.group
            cells = []
            for c in chosen:
                cells.append(Text(row.cells[c.key], style="green bold" if c.key in row.best else ""))
                cells += [Text(row.differences[c.key])] if c.difference else []
            table.add_row(Text(row.run.name), *cells)
        parts.append(table)
    return Group(*parts, *(Text(f"note: {n}") for n in notes(runs, baseline)))


def markdown(runs: list[Run], baseline: str) -> str:
    columns = shown(runs)
    head = headings(columns, baseline)
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for row in rows(runs, columns, baseline):
        lines.append("| " + " | ".join(f"**{t}**" if best else t.replace("|", "\\|") for t, best in _flat(row, columns)) + " |")
    return "\n".join([*lines, "", *(f"- {n}" for n in notes(runs, baseline))])


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
    writer.writerow(["run", "folder", "group", *(f"{c.key}{d}/{p}" for c in columns for d in (("", "/difference") if c.difference else ("",)) for p in parts)])
    for row in rows(runs, columns, baseline):
        cells = [row.run.name, row.run.path.name, row.run.group]
        for c in columns:
            for entry in (entry_of(row.run, c.key), _paired(row.run, row.base, c)) if c.difference else (entry_of(row.run, c.key),):
                cells += [entry["mean"], *(entry["ci95"] or ("", "")), entry["n"]] if entry else [""] * 4
        writer.writerow(cells)
    return text.getvalue().rstrip("\n")


def print_terminal(experiment: str, runs: list[Run], baseline: str) -> None:
    console = Console()
    (console if console.is_terminal else Console(width=200)).print(terminal(experiment, runs, baseline))


def entry_of(run: Run, key: str) -> dict | None:
    """Mean, interval and count of a column: the summary's, or of a column that is derived here."""
    if key in run.summary:
        return run.summary[key]
    found = [v[key] for v in run.values.values() if key in v]
    return {"mean": sum(found) / len(found), "ci95": None, "n": len(found)} if found else None


def _mean(run: Run, key: str, default: float) -> float:
    entry = entry_of(run, key)
    return default if entry is None else entry["mean"]


def _best(group: list[Run], c: Column) -> str | None:
    """The best value as it is shown, so that runs which look equal are both marked; None where nothing can be best."""
    if not c.better or (c.key in SPEED and len({r.about["device"] for r in group}) > 1):
        return None
    values = [e["mean"] * c.better for r in group if (e := entry_of(r, c.key))]
    return c.show(max(values) * c.better) if len(values) > 1 else None


def _cell(run: Run, c: Column) -> str:
    entry = entry_of(run, c.key)
    if entry is None:
        return "-"
    interval = f" [{c.show(entry['ci95'][0])}, {c.show(entry['ci95'][1])}]" if c.difference and entry["ci95"] else ""
    return c.show(entry["mean"]) + interval


def _paired(run: Run, base: Run | None, c: Column) -> dict | None:
    return None if base is None or base is run else paired(run.values, base.values, c.key)


def _difference(run: Run, base: Run | None, c: Column) -> str:
    entry = _paired(run, base, c)
    if entry is None:
        return "baseline" if base is run else "-"
    low, high = (c.show(v, sign=True) for v in entry["ci95"])
    return f"{c.show(entry['mean'], sign=True)} [{low}, {high}] ({entry['n']})"


def _flat(row: Row, columns: list[Column]) -> Iterable[tuple[str, bool]]:
    yield row.run.name, False
    for c in columns:
        yield row.cells[c.key], c.key in row.best
        if c.difference:
            yield row.differences[c.key], False


def _tex(text: str) -> str:
    escaped = {ch: "\\" + ch for ch in "_%&#${}"} | {"\\": r"\textbackslash{}", "^": r"\^{}", "~": r"\~{}"}
    return "".join(escaped.get(ch, ch) for ch in text)
