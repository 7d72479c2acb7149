"""The table of a bench: medians over the repeats, with the smallest and the largest where they matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from statistics import median

from rich.console import Group
from rich.table import Table
from rich.text import Text

PARTS: tuple[str, ...] = ("plan", "assembly", "rope", "attention", "write", "network", "commit", "decode")
COLUMNS = ("chunk s", "frames", "attention", *(f"{part} ms" for part in PARTS), "overhead / attention", "chunk / contiguous")
RANGED = ("chunk s", "overhead / attention", "chunk / contiguous")
EXPLAINED = """A chunk is all denoising passes and the clean pass. *frames*: attended, the chunk's own included, in frame-equivalents. *attention*: its
share of the chunk. Parts are exclusive of one another: *plan* chooses, *assembly* brings the window together (and is whatever else the
loop does), *rope* rotates, *write* puts the chunk's rows into the window, *network* is everything else in the model, *commit* stores and
compresses. *overhead* is plan + assembly + write + commit. *contiguous*: the same network with attention over a copy of the same keys and
values, where nothing is rotated, written or selected; each of its passes runs right beside the chunk's own. Medians over the repeats
[smallest, largest]."""


@dataclass(frozen=True)
class Figure:
    """One column over the repeats."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        return cls(median(values), min(values), max(values), len(values))


Rows = Mapping[str, Mapping[str, Figure]]  # mode -> column -> figure


def summary(samples: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, Figure]]:
    """Figures by mode and column. samples: of every mode, the columns of each repeat."""
    return {name: {c: Figure.of([row[c] for row in rows]) for c in COLUMNS} for name, rows in samples.items()}


def terminal(rows: Rows, title: str) -> Group:
    """What decides, then the parts."""
    parts = [c for c in COLUMNS if c.endswith(" ms")]
    tables = (Table(title=title), Table(caption=Text(" ".join(EXPLAINED.replace("*", "").split()))))
    for table, columns in zip(tables, ([c for c in COLUMNS if c not in parts], parts), strict=True):
        table.add_column("mode", no_wrap=True)
        for column in columns:
            table.add_column(column, justify="right")
        for name, row in rows.items():
            table.add_row(Text(name), *(Text(_cell(c, row[c])) for c in columns))
    return Group(*tables)


def markdown(rows: Rows, about: dict, command: str) -> str:
    """The page of the table."""
    lines = [
        "# Where the time of a chunk goes",
        "",
        f"`{command}` on {about['device']}, {date.today()}, PyTorch {about['versions']['torch']};",
        f"{about['model']}; {about['clock']}.",
    ]
    lines += ["", "| mode | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(c, row[c]) for c in COLUMNS) + " |" for name, row in rows.items()]
    return "\n".join([*lines, "", EXPLAINED, ""])


def _cell(column: str, figure: Figure) -> str:
    shown = _number(column, figure.median)
    return f"{shown} [{_number(column, figure.low)}, {_number(column, figure.high)}]" if column in RANGED and figure.n > 1 else shown


def _number(column: str, value: float) -> str:
    if column in ("attention", "overhead / attention"):
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
