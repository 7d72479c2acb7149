"""The comparison on a terminal: one table that is as wide as the terminal and no wider. Columns give way, digits do not."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from harness.reporting.audit import audit_notes
from harness.reporting.columns import columns_of, ends_of
from harness.reporting.groups import Run, groups_of, other_weights, read_runs
from harness.reporting.notes import failures, meaningless, notes, significance
from harness.reporting.table import BASELINE
from harness.reporting.text import Row, rows
from metrics.column import Column

WIDE = 140  # of output that goes to a file, where nobody said how wide
GAP = 2  # between columns
CALLED = {"floor": "floor", "ceiling": "bound"}  # what bounds a column: as in files, and as shown
ENDS = {"floor": "floor: an unrelated view of the rollout", "bound": "bound of the true view: what the autoencoder keeps of it"}


@dataclass(frozen=True)
class Part:
    """A column of a table: heading and cells of one or more lines. rank: the highest gives way first. name: what is said of it
    where it has no room (the heading, on one line)."""

    heading: str
    rank: float
    cells: list[str]
    style: list[str]
    name: str = ""

    @property
    def width(self) -> int:
        return max(len(line) for text in (self.heading, *self.cells) for line in text.split("\n"))


def console() -> Console:
    """As wide as the terminal, or as COLUMNS says; of a file, wide."""
    made = Console()
    return made if made.is_terminal or os.environ.get("COLUMNS") else Console(width=WIDE)


def fitted(names: Part, parts: Sequence[Part], width: int) -> tuple[Table, list[str]]:
    """The table of the columns that `width` characters have room for, and the headings of the others. Nothing is cut off: names
    are wrapped, and columns are left out, those of the highest rank first."""
    words = max((len(word) for text in (names.heading, *names.cells) for word in text.split()), default=1)
    first = min(names.width, max(words, width // 4))
    chosen: list[Part] = []
    for part in sorted(parts, key=lambda p: p.rank):
        if not chosen or first + sum(GAP + p.width for p in (*chosen, part)) <= width:
            chosen.append(part)
    kept = [p for p in parts if any(p is c for c in chosen)]
    first = min(names.width, max(first, width - sum(GAP + p.width for p in kept)))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column(names.heading, overflow="fold", width=first, vertical="top")
    for part in kept:
        table.add_column(part.heading, justify="right", no_wrap=True, min_width=part.width)
    for i, name in enumerate(names.cells):
        table.add_row(Text(name, style=names.style[i]), *(Text(p.cells[i], style=p.style[i], justify="right") for p in kept))
    return table, [p.name or p.heading.replace("\n", " ") for p in parts if not any(p is k for k in kept)]


def heading(column: Column) -> str:
    """A heading on two lines: its last word, or the unit that scales it, below."""
    if column.factor != 1:
        return f"{column.heading}\n{column.unit}".replace(" a chunk", "")
    return (
        column.heading.replace(" revisit", "\nrevisit")
        .replace(" true view", "\ntrue view")
        .replace("tokens ", "tokens\n")
        .replace(" frames", "\nframes")
        .replace("gap ", "gap\n")
    )


def comparison_table(runs: list[Run], baseline: str, width: int, current: Path | None = None) -> list[Table | Text]:
    """Runs by group, the best quality first, above floor, bound and what a paper published; then what there was no room for.

    current: the run to mark.
    Below a value of the leading column stands its interval. Each difference is to the baseline, paired over trajectories.
    """
    published = {policy: figures for run in runs for policy, figures in (run.about["config"].get("published") or {}).items()}
    columns = columns_of((r.results for r in runs), {name for figures in published.values() for name in figures})
    columns = [c for c in columns if not c.key.startswith("audit/")]  # said in words below
    found = rows(runs, columns, baseline)
    below = [(f"{policy}, published", {c.key: c.show(figures[c.name]) for c in columns if c.name in figures}) for policy, figures in published.items()]
    below += _ends(runs, columns)
    names = Part(
        "policy", 0, [r.run.name for r in found] + [name for name, _ in below], ["bold" if r.run.path == current else "" for r in found] + ["dim"] * len(below)
    )
    parts, whole = [], {group[0].group: len({name for run in group for name in run.values}) for group in groups_of(runs)}
    for c in columns:
        cells = [_stacked(r.cells[c.key]) if c.rank == 1 else r.cells[c.key].partition(" [")[0] for r in found] + [cells.get(c.key, "") for _, cells in below]
        style = ["bold green" if c.key in r.best else "" for r in found] + ["dim"] * len(below)
        parts.append(Part(heading(c), c.rank, cells, style))
        if c.difference and any(r.base for r in found) and len(found) > 1:
            cells = [_difference(r, c, whole[r.run.group]) for r in found] + [""] * len(below)
            parts.append(
                Part(
                    f"to\n{baseline}" if len(baseline) < 16 else "to the\nbaseline",
                    c.rank + (0.5 if c.rank == 1 else 3),
                    cells,
                    [""] * len(cells),
                    f"{c.heading} to {baseline}",
                )
            )
    table, left_out = fitted(names, parts, width)
    under = "; ".join(text for end, text in ENDS.items() if end in names.cells)
    said = [Text(text, style="dim") for text in (under, f"not shown for lack of room: {', '.join(left_out)}" if left_out else "") if text]
    return [Text(""), table, *said]


def terminal(title: str, runs: list[Run], baseline: str, width: int) -> Group:
    """Everything about an experiment's runs that the width has room for."""
    about = f"{title}: mean, 95 % interval below it; differences to {baseline} are paired over trajectories"
    return Group(Text(about), *comparison_table(runs, baseline, width), *(Text(f"note: {n}") for n in notes(runs, baseline)))


def comparison(experiment: Path, current: Path, width: int) -> Group:
    """The runs that may be compared with the current one (marked), in one table, and where it stands when it is alone."""
    runs, _ = read_runs(experiment)
    mine = next(r for r in runs if r.path.resolve() == current.resolve())
    same, about = [r for r in runs if r.group == mine.group], mine.about
    for run in same:
        run.group = 0
    pairs = sum(len(r.pairs) for r in mine.records)
    count = f"{about['trajectories']} trajectories{f' with {pairs} revisit pairs' if pairs else ''}"
    made = f"{count} of {about['world']}{', ' + about['protocol'] if about['protocol'] else ''}, by {about['backbone']}, seed {about['seed']}"
    lines: list[Table | Text] = [Text(f"{experiment.resolve().name}: {made}, on {about['device']}; mean, 95 % interval below it")]
    lines += comparison_table(same, BASELINE, width, mine.path)
    if len(same) == 1 and "external" not in about and not any(k.startswith("replay/") for k in mine.summary):
        others = ",".join(dict.fromkeys((BASELINE, "sliding", "worldkv", about["policy"])))
        lines.append(Text(f"compare: -m policy={others}"))
    if len(same) > 1 and not any(r.label == BASELINE for r in same):
        lines.append(Text(f"no run of {BASELINE} to differ from; differences to another: harness/report.py {experiment} --baseline {same[0].label}"))
    said = [*filter(None, [other_weights(same)]), *failures(same), *meaningless(same), *significance(same, BASELINE), *audit_notes(same)]
    lines += [Text(note, style="dim") for note in said]
    if others := len(runs) - len(same):
        lines.append(Text(f"{others} runs of another world, seed, backbone or noise are not comparable and not shown"))
    return Group(*lines)


def print_terminal(experiment: str, runs: list[Run], baseline: str) -> None:
    out = console()
    out.print(terminal(experiment, runs, baseline, out.width), highlight=False)


def _ends(runs: list[Run], columns: Sequence[Column]) -> list[tuple[str, dict[str, str]]]:
    """Floor and bound, each under the columns that it belongs to; the floor is the best run's, whose rollout it is measured in."""
    best = rows(groups_of(runs)[0], list(columns), BASELINE)[0].run
    by_key = {c.key: c for c in columns}
    return [(CALLED[end], {key: by_key[key].show(value) for key, value in values.items()}) for end, values in ends_of(columns, best.summary).items()]


def _stacked(text: str) -> str:
    """12.3 [12.0, 12.6] with the interval on a line of its own."""
    return text.replace(" [", "\n[").replace(", ", " ")


def _difference(row: Row, column: Column, whole: int) -> str:
    """How many trajectories a difference is of is said where it is not of all that the group has."""
    text = row.differences[column.key]
    value, _, count = text.rpartition(" (")
    return _stacked(value if count == f"{whole})" else text)
