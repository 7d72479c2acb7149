"""The README's results tables, from the small files in docs/results."""

from collections.abc import Callable
from dataclasses import dataclass

from harness.reporting.table import BASELINE

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
    bench, runs = BENCHES.get(name), table["runs"]
    columns = _bench_columns(bench, runs) if bench else COST_COLUMNS if name in SPEED else QUALITY_COLUMNS
    rows = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    shown = {label: run | {"label": label} for label, run in runs.items() if not bench or bench.leads(label)}
    for label, run in sorted(shown.items(), key=lambda item: -item[1]["summary"]["quality/psnr_revisit"]["mean"]):
        rows.append(f"| `{bench.name(label) if bench else label}` | " + " | ".join(cell(run) for cell in columns.values()) + " |")
    one = next(iter(runs.values()))["summary"]
    ends = ", ".join(f"{w} {one[f'quality/psnr_{w}']['mean']:.1f} dB / LPIPS {one[f'quality/lpips_{w}']['mean']:.3f}" for w in ("floor", "ceiling"))
    about = f"{table['trajectories']} held-out trajectories, `{table['protocol']}`, seed {table['seed']}, same noise"
    return "\n".join([*rows, "", f"{about}; {ends}; {table['device']}."])


def _bench_columns(bench: Bench, runs: dict[str, dict]) -> dict[str, Cell]:
    def at(value: str) -> Cell:
        def cell(run: dict) -> str:
            other = runs.get(bench.other(run["label"], value))
            return f"{other['summary']['quality/psnr_revisit']['mean']:.2f}" if other else ""

        return cell

    base = bench.name(bench.base)
    columns = {
        "PSNR revisit": _interval("quality/psnr_revisit", "{:.2f}"),
        f"to {base}": _difference("quality/psnr_revisit", "{:+.2f}"),
        "LPIPS revisit": _mean("quality/lpips_revisit", "{:.3f}"),
        f"to {base} ": _difference("quality/lpips_revisit", "{:+.3f}"),
        "tokens": _mean("cost/attended_tokens", "{:.0f}"),
        "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
        "bank MB": _bank,
        "lost": _mean("cost/unreachable_frames", "{:.1f}"),
    }
    if full := runs.get(BASELINE):  # without it in the same command there is nothing that speed could be a ratio to
        columns[f"FPS to {BASELINE}"] = lambda run: f"{_fps(run) / _fps(full):.1f}x"
    return columns | {f"PSNR, {bench.key}={value}": at(value) for value in bench.others}


def _fps(run: dict) -> float:
    return run["summary"]["cost/fps_mean"]["mean"]


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


def _bank(run: dict) -> str:
    return f"{sum(entry['mean'] for key, entry in run['summary'].items() if key.startswith('cost/bank_bytes_')) / 1e6:.1f}"


QUALITY_COLUMNS = {
    "PSNR revisit": _interval("quality/psnr_revisit", "{:.2f}"),
    "to full": _difference("quality/psnr_revisit", "{:+.2f}"),
    "LPIPS revisit": _mean("quality/lpips_revisit", "{:.3f}"),
    "to full ": _difference("quality/lpips_revisit", "{:+.3f}"),
    "PSNR true view": _mean("quality/psnr_reference", "{:.2f}"),
    "contrast": _mean("quality/contrast", "{:.2f}"),
    "tokens": _mean("cost/attended_tokens", "{:.0f}"),
    "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
    "bank MB": _bank,
    "lost": _mean("cost/unreachable_frames", "{:.1f}"),
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
