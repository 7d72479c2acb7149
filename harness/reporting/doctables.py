"""The README's results tables, from the small files in docs/results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.reporting.columns import columns_of, ends_of, leading
from harness.reporting.table import BASELINE
from harness.results.older import completed_summary
from metrics.column import Column

Cell = Callable[[dict], str]  # a run's entry in docs/results -> what stands in the table
KEPT = ("quality/", "cost/")
BENCH_KEPT = (  # benches have many runs
    *("quality/psnr_revisit", "quality/psnr_floor", "quality/psnr_ceiling", "quality/lpips"),
    *("cost/attended_tokens", "cost/window", "cost/bank", "cost/fps_mean", "cost/unreach"),
)
SPEED = ("long",)  # tables that show speed, which only a run with the machine to itself may
PICTURES = {"long": "cost.png", "novelty": "novelty.png"}  # experiment: what its cost.png is called in docs/


@dataclass(frozen=True)
class Bench:
    """A table of policies against one of them. key: what points differ in besides the policy; a row shows its first value, and
    the PSNR at the `others`."""

    base: str
    key: str = ""
    first: str = ""
    others: tuple[str, ...] = ()

    def leads(self, label: str) -> bool:
        return not self.key or f" {self.key}=" not in label or f" {self.key}={self.first}" in label

    def name(self, label: str) -> str:
        return label.replace(f" {self.key}={self.first}", "").replace("capped inner=", "")

    def other(self, label: str, value: str) -> str:
        here = f" {self.key}={self.first}"
        return label.replace(here, f" {self.key}={value}") if here in label else f"{label} {self.key}={value}"


BENCHES = {
    "policies": Bench("worldkv", "budget", "w18", ("w12", "w24")),
    "policies_bytes": Bench("capped inner=worldkv frames=30", "frames", "30", ("20", "45")),
    "codecs": Bench("worldkv codec=none"),
}


def results_table(name: str, table: dict) -> str:
    """The comparison of docs/results/NAME.json, best first."""
    bench = BENCHES.get(name)
    runs = {label: run | {"label": label, "summary": completed_summary(run["summary"])} for label, run in table["runs"].items()}
    known = columns_of(run | {"columns": table.get("columns")} for run in runs.values())
    columns = _bench_columns(bench, runs, known) if bench else _cost_columns(known) if name in SPEED else _quality_columns(known, BASELINE)
    rows = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    shown = {label: run for label, run in runs.items() if not bench or bench.leads(label)}
    main = leading(known)
    assert main is not None, "docs/results holds runs with qualities"
    for label, run in sorted(shown.items(), key=lambda item: -main.better * item[1]["summary"][main.key]["mean"]):
        rows.append(f"| `{bench.name(label) if bench else label}` | " + " | ".join(cell(run) for cell in columns.values()) + " |")
    about = f"{table['trajectories']} held-out trajectories, `{table['protocol']}`, seed {table['seed']}, same noise"
    return "\n".join([*rows, "", f"{about}; {_ends(known, next(iter(runs.values()))['summary'])}; {table['device']}."])


def _ends(known: Sequence[Column], summary: dict[str, dict]) -> str:
    """Floor and ceiling in words, each with the column that it belongs to: an unrelated view bounds the revisit, the codec's round
    trip the true view."""
    ends = {end: [(c, values[c.key]) for c in known if c.key in values and c.rank < 6] for end, values in ends_of(known, summary).items()}
    return "; ".join(f"{end} of {', '.join(f'{c.heading} {c.show(value)} {c.unit}'.strip() for c, value in found)}" for end, found in ends.items() if found)


def _quality_columns(known: Sequence[Column], base: str) -> dict[str, Cell]:
    """Every quality that has room for it (an added metric too), differences to the base, and what the memory costs."""
    columns: dict[str, Cell] = {}
    for c in (c for c in known if c.group == "quality" and c.rank < 5):
        columns[c.heading] = _interval(c) if c is leading(known) else _mean(c)
        if c.difference:
            columns[f"to {base}" + " " * sum(k.startswith("to ") for k in columns)] = _difference(c)  # headings differ, readers see no blanks
    return columns | _columns(known, "cost/attended_tokens", "cost/window_bytes", "cost/bank_bytes", "cost/unreachable_frames")


def _cost_columns(known: Sequence[Column]) -> dict[str, Cell]:
    main = leading(known)
    keys = ("cost/fps_mean", "cost/fps_last", "cost/latency_p95_ms", "cost/attended_tokens", "cost/window_bytes", "cost/bank_bytes", "cost/bytes_moved")
    return (
        _columns(known, *keys)
        | {"assembly + commit": lambda run: f"{100 * (run['summary']['cost/share_assemble']['mean'] + run['summary']['cost/share_commit']['mean']):.1f} %"}
        | ({main.heading: _mean(main)} if main else {})
    )


def _bench_columns(bench: Bench, runs: dict[str, dict], known: Sequence[Column]) -> dict[str, Cell]:
    """Without speed: jobs of a bench share a machine."""
    main = leading(known)
    assert main is not None

    def at(value: str) -> Cell:
        def cell(run: dict) -> str:
            other = runs.get(bench.other(run["label"], value))
            return main.show(other["summary"][main.key]["mean"]) if other else ""

        return cell

    columns = _quality_columns([c for c in known if not c.key.endswith(("_reference", "/contrast"))], bench.name(bench.base))
    return columns | {f"{main.heading}, {bench.key}={value}": at(value) for value in bench.others}


def _columns(known: Sequence[Column], *keys: str) -> dict[str, Cell]:
    by_key = {c.key: c for c in known}
    return {by_key[key].title: _mean(by_key[key]) for key in keys if key in by_key}


def _mean(c: Column) -> Cell:
    return lambda run: c.show(run["summary"][c.key]["mean"]) if c.key in run["summary"] else "-"


def _interval(c: Column) -> Cell:
    return lambda run: f"{_mean(c)(run)} [" + ", ".join(c.show(v) for v in run["summary"][c.key]["ci95"]) + "]"


def _difference(c: Column) -> Cell:
    def cell(run: dict) -> str:
        entry = run["difference"].get(c.key)
        if not entry or entry["mean"] == 0 == entry["ci95"][0]:
            return ""
        return f"{c.show(entry['mean'], sign=True)} [" + ", ".join(c.show(v, sign=True) for v in entry["ci95"]) + "]"

    return cell
