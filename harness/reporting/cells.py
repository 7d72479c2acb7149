"""Cells and rows of the tables in docs, from a file of docs/results."""

from collections.abc import Callable, Sequence

from harness.reporting.columns import columns_of, leading
from harness.reporting.noise import band
from harness.results.older import completed_summary
from harness.results.statistics import LEVEL, adjusted
from metrics.column import Column

Cell = Callable[[dict], str]  # a run's entry in docs/results -> what stands in the table
Link = Callable[[str], str]  # a run's label -> the label as the page shows it, with a link to its method where it has one


def read_table(table: dict, base: str) -> tuple[dict[str, dict], list[Column]]:
    """A table's runs and columns. Older tables hold the baseline's difference to itself, which is no comparison."""
    runs = {label: run | {"label": label, "summary": completed_summary(run["summary"])} for label, run in table["runs"].items()}
    runs |= {base: runs[base] | {"difference": {}}} if base in runs else {}
    known = columns_of(run | {"columns": table.get("columns")} for run in runs.values())
    bands = {c.key: band(table, c.key) for c in known}
    return {label: run | {"bands": bands} for label, run in runs.items()}, known


def best_first(runs: dict[str, dict], known: Sequence[Column]) -> dict[str, dict]:
    main = main_column(known)
    return dict(sorted(runs.items(), key=lambda item: -main.better * item[1]["summary"][main.key]["mean"]))


def main_column(known: Sequence[Column]) -> Column:
    main = leading(known)
    assert main is not None, "docs/results holds runs with qualities"
    return main


def rows_of(columns: dict[str, Cell], runs: dict[str, dict], link: Link) -> list[str]:
    head = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    return head + [f"| {link(label)} | " + " | ".join(cell(run) for cell in columns.values()) + " |" for label, run in runs.items()]


def mean_cell(c: Column) -> Cell:
    return lambda run: c.show(run["summary"][c.key]["mean"]) if c.key in run["summary"] else "-"


def interval_cell(c: Column) -> Cell:
    return lambda run: f"{mean_cell(c)(run)}{_between(c, run['summary'].get(c.key, {}))}"


def _between(c: Column, entry: dict, sign: bool = False) -> str:
    return f" [{', '.join(c.show(v, sign=sign) for v in entry['ci95'])}]" if entry.get("ci95") else ""


def _noisy(difference: float, band: float | None) -> str:
    return "~" if band is not None and abs(difference) <= band else ""


def difference_cell(c: Column, runs: dict[str, dict]) -> Cell:
    """With a star where it is significant among all of these runs (of tables that were made before: without)."""
    known = {label: p for label, run in runs.items() if (p := (run["difference"].get(c.key) or {}).get("p")) is not None}
    stars = {label for label, q in zip(known, adjusted(list(known.values())), strict=True) if q is not None and q < LEVEL}

    def cell(run: dict) -> str:
        entry = run["difference"].get(c.key)
        if not entry or entry["mean"] == 0 == (entry["ci95"] or [0])[0]:
            return ""
        marks = ("*" if run["label"] in stars else "") + _noisy(entry["mean"], run["bands"].get(c.key))
        return f"{c.show(entry['mean'], sign=True)}{marks}{_between(c, entry, sign=True)}"

    return cell


def cells_of(known: Sequence[Column], *keys: str) -> dict[str, Cell]:
    by_key = {c.key: c for c in known}
    return {by_key[key].title: mean_cell(by_key[key]) for key in keys if key in by_key}
