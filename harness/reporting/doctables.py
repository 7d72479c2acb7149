"""The results tables of README and docs, from the small files in docs/results."""

from collections.abc import Callable
from dataclasses import dataclass

Cell = Callable[[dict], str]  # a run's entry in docs/results -> what stands in the table
Link = Callable[[str], str]  # a run's label -> the label as the page shows it, with a link to its method where it has one
KEPT = ("quality/", "cost/")
BENCH_KEPT = (  # benches have many runs
    *("quality/psnr_revisit", "quality/psnr_floor", "quality/psnr_ceiling", "quality/lpips"),
    *("cost/attended_tokens", "cost/window", "cost/bank", "cost/fps_mean", "cost/unreach"),
)
SPEED = ("long",)  # tables that show speed, which only a run with the machine to itself may
SHORT = "short"  # the README's table: these runs of SHORT_OF
SHORT_OF = "policies"
SHORT_RUNS = ("int4_places_coverage", "full", "h2o", "worldkv", "sink_recent", "sliding")
LIMITS = {  # what bounds a column, as a row below the runs: its name, and the column and the key of the figure
    "floor: an unrelated view": {"PSNR revisit": ("quality/psnr_floor", "{:.2f}"), "LPIPS revisit": ("quality/lpips_floor", "{:.3f}")},
    "ceiling: the codec's round trip": {"PSNR true view": ("quality/psnr_ceiling", "{:.2f}")},
}
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


def results_table(name: str, table: dict, link: Link) -> str:
    """The comparison of docs/results/NAME.json, best first; `short` is the README's choice of SHORT_OF. Below the runs stand what bounds
    a column: the floor under the revisit scores, the ceiling under the true view alone, since a revisit is compared with a view that
    the same rollout generated."""
    bench, runs = BENCHES.get(SHORT_OF if name == SHORT else name), table["runs"]
    columns = _bench_columns(bench, runs) if bench else COST_COLUMNS if name in SPEED else QUALITY_COLUMNS
    shown = {label: run | {"label": label} for label, run in runs.items() if not bench or bench.leads(label)}
    if name == SHORT:
        columns, shown = _short(columns, {bench.name(label): run for label, run in shown.items()} if bench else shown)
    rows = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    for label, run in sorted(shown.items(), key=lambda item: -item[1]["summary"]["quality/psnr_revisit"]["mean"]):
        rows.append(f"| {link(bench.name(label) if bench else label)} | " + " | ".join(cell(run) for cell in columns.values()) + " |")
    summary = next(iter(runs.values()))["summary"]
    for limit, where in LIMITS.items():
        cells = [_limit(where.get(column), summary) for column in columns]
        if any(cells):
            rows.append(f"| *{limit}* | " + " | ".join(cells) + " |")
    about = f"{table['trajectories']} held-out trajectories of `{table['world']}`, `{table['protocol']}`, seed {table['seed']}, same noise"
    return "\n".join([*rows, "", f"{about}; {table['device']}."])


def bench_rows(name: str, table: dict, link: Link) -> str:
    """A policy's row in the bench above that of the base; empty where the bench has no run of it."""
    bench, runs = BENCHES[SHORT_OF], table["runs"]
    columns = _bench_columns(bench, runs)
    found = {bench.name(label): run | {"label": label} for label, run in runs.items() if bench.leads(label)}
    if name not in found:
        return ""
    rows = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    rows += [f"| {link(label)} | " + " | ".join(cell(found[label]) for cell in columns.values()) + " |" for label in dict.fromkeys([name, bench.base])]
    return "\n".join(rows)


def _limit(where: tuple[str, str] | None, summary: dict) -> str:
    return where[1].format(summary[where[0]]["mean"]) if where and where[0] in summary else ""


def _short(columns: dict[str, Cell], runs: dict[str, dict]) -> tuple[dict[str, Cell], dict[str, dict]]:
    """The README's columns and rows. Raises ValueError where a row has no run."""
    if missing := set(SHORT_RUNS) - runs.keys():
        raise ValueError(f"docs/results/{SHORT_OF}.json has no run of {', '.join(sorted(missing))}, which the README's table shows")
    kept = {
        name: cell
        for name, cell in columns.items()
        if name in ("PSNR revisit", "LPIPS revisit", "unreachable") or name.startswith("to ") and name.strip() == name
    }
    memory: dict[str, Cell] = {"window + bank MB": lambda run: f"{(run['summary']['cost/window_bytes']['mean'] + _banked(run)) / 1e6:.1f}"}
    return kept | memory, {label: runs[label] for label in SHORT_RUNS}


def _bench_columns(bench: Bench, runs: dict[str, dict]) -> dict[str, Cell]:
    def at(value: str) -> Cell:
        def cell(run: dict) -> str:
            other = runs.get(bench.other(run["label"], value))
            return f"{other['summary']['quality/psnr_revisit']['mean']:.2f}" if other else ""

        return cell

    base = bench.name(bench.base)
    columns = {
        "PSNR revisit": _interval("quality/psnr_revisit", "{:.2f}"),
        f"PSNR vs {base}": _difference("quality/psnr_revisit", "{:+.2f}"),
        "LPIPS revisit": _mean("quality/lpips_revisit", "{:.3f}"),
        f"LPIPS vs {base}": _difference("quality/lpips_revisit", "{:+.3f}"),
        "tokens": _mean("cost/attended_tokens", "{:.0f}"),
        "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
        "bank MB": _bank,
        "unreachable": _mean("cost/unreachable_frames", "{:.1f}"),
    }
    return columns | {f"PSNR, {bench.key}={value}": at(value) for value in bench.others}


def _mean(key: str, form: str, factor: float = 1.0):
    return lambda run: form.format(run["summary"][key]["mean"] * factor)


def _interval(key: str, form: str):
    return lambda run: f"{form.format(run['summary'][key]['mean'])} [" + ", ".join(form.format(v) for v in run["summary"][key]["ci95"]) + "]"


def _difference(key: str, form: str):
    def cell(run: dict) -> str:
        entry = run["difference"].get(key)
        if not entry or entry["mean"] == 0 == entry["ci95"][0]:
            return ""
        return f"{form.format(entry['mean'])} [" + ", ".join(form.format(v) for v in entry["ci95"]) + "]"

    return cell


def _banked(run: dict) -> float:
    return sum(entry["mean"] for key, entry in run["summary"].items() if key.startswith("cost/bank_bytes_"))


def _bank(run: dict) -> str:
    return f"{_banked(run) / 1e6:.1f}"


QUALITY_COLUMNS = {
    "PSNR revisit": _interval("quality/psnr_revisit", "{:.2f}"),
    "PSNR vs full": _difference("quality/psnr_revisit", "{:+.2f}"),
    "LPIPS revisit": _mean("quality/lpips_revisit", "{:.3f}"),
    "LPIPS vs full": _difference("quality/lpips_revisit", "{:+.3f}"),
    "PSNR true view": _mean("quality/psnr_reference", "{:.2f}"),
    "contrast": _mean("quality/contrast", "{:.2f}"),
    "tokens": _mean("cost/attended_tokens", "{:.0f}"),
    "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
    "bank MB": _bank,
    "unreachable": _mean("cost/unreachable_frames", "{:.1f}"),
}
COST_COLUMNS = {
    "FPS": _mean("cost/fps_mean", "{:.1f}"),
    "FPS last": _mean("cost/fps_last", "{:.1f}"),
    "p95 ms": _mean("cost/latency_p95_ms", "{:.0f}"),
    "tokens last": _mean("cost/attended_tokens_last", "{:.0f}"),
    "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
    "bank MB": _bank,
    "moved MB a chunk": _mean("cost/bytes_moved", "{:.2f}", 1e-6),
    "assembly + commit": lambda run: f"{100 * (run['summary']['cost/share_assemble']['mean'] + run['summary']['cost/share_commit']['mean']):.1f} %",
    "PSNR revisit": _mean("quality/psnr_revisit", "{:.2f}"),
}
