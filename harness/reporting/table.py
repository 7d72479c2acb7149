"""The comparison of an experiment's runs as a table for the terminal."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table

from harness.results.run_folder import RunFolder
from harness.results.statistics import paired

BASELINE = "full"
QUALITY = (  # key, heading, format, unit factor
    ("quality/psnr_revisit", "PSNR revisit", "{:.2f}", 1),
    ("quality/ssim_revisit", "SSIM", "{:.3f}", 1),
    ("quality/lpips_revisit", "LPIPS", "{:.3f}", 1),
    ("quality/psnr_reference", "PSNR true", "{:.2f}", 1),
    ("quality/contrast", "contrast", "{:.2f}", 1),
    ("quality/fid", "FID", "{:.1f}", 1),
)
COST = (
    ("cost/fps_mean", "FPS", "{:.1f}", 1),
    ("cost/fps_last", "FPS last", "{:.1f}", 1),
    ("cost/attended_tokens", "tokens", "{:.0f}", 1),
    ("cost/window_bytes", "window MB", "{:.2f}", 1e-6),
    ("bank", "bank MB", "{:.2f}", 1e-6),
    ("cost/bytes_moved", "moved MB", "{:.2f}", 1e-6),
    ("cost/unreachable_frames", "lost", "{:.1f}", 1),
)
PUBLISHED = {  # how a config names a paper's figures
    "quality/psnr_revisit": "psnr",
    "quality/ssim_revisit": "ssim",
    "quality/lpips_revisit": "lpips",
    "quality/fid": "fid",
    "cost/fps_last": "fps_last",
}
CAPTION = "PSNR in dB against the first visit / the true view; floor: unrelated views of the rollout; ceiling: codec round trip"


@dataclass(frozen=True)
class Run:
    """A finished run: its label, its results and its columns by trajectory."""

    label: str
    path: Path
    results: dict
    values: dict[str, dict[str, float]]


def finished_runs(experiment: Path) -> list[Run]:
    runs = []
    for path in sorted(experiment.glob("*/results.json")):
        folder = RunFolder(path.parent)
        if results := folder.results():
            runs.append(Run(results["run"]["label"], path.parent, results, folder.values()))
    return runs


def headline(run: Run) -> str:
    """A run's means in one line, for logs."""
    means = run.results["summary"]
    shown = [f"{heading} {form.format(means[key]['mean'] * factor)}" for key, heading, form, factor in (*QUALITY, *COST) if key in means]
    return rf"{run.label}, seed {run.results['run']['seed']}: {', '.join(shown)}".replace("[", r"\[")


def comparison(experiment: Path, current: Run) -> Group:
    """Every finished run of an experiment beside the current one (marked): quality with floor, ceiling and paired
    differences, then cost."""
    about = current.results["run"]
    runs = finished_runs(experiment)
    comparable = {r.label: r for r in runs if r.results["run"]["comparable"] == about["comparable"]} | {current.label: current}
    same = dict(sorted(comparable.items()))
    baseline = same.get(BASELINE)
    shown = [c for c in QUALITY if any(c[0] in r.results["summary"] for r in same.values()) or PUBLISHED.get(c[0]) in _published_figures(about)]
    made = f"{about['trajectories']} trajectories of {about['world']}, {about['protocol']}, by {about['backbone']}"
    quality = Table(title=f"{experiment.name}: {made}; mean [95 % interval]")
    cost = Table(title=f"cost on {about['device']}", caption="bytes over all layers; lost: past frames that nothing could reach")
    for table, columns, last in ((quality, shown, f"dPSNR to {BASELINE}"), (cost, COST, None)):
        table.add_column("policy", no_wrap=True)
        for _, heading, _, _ in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        if last:
            table.add_column(last, justify="right", no_wrap=True)
        for label, run in same.items():
            cells = [_cell(run.results["summary"], *c) for c in columns] + ([_difference(run, baseline)] if last else [])
            table.add_row(("[bold]" if label == current.label else "") + label, *cells)
    for policy, figures in about["config"].get("published", {}).items():
        for table, columns in ((quality, shown), (cost, COST)):
            cells = [fmt.format(figures[short]) if (short := PUBLISHED.get(key)) in figures else "" for key, _, fmt, _ in columns]
            table.add_row(f"[dim]{policy}, published", *cells, *[""] * (table is quality))
    summary = current.results["summary"]
    for which in ("floor", "ceiling"):
        cells = {f"quality/{m}_revisit": summary.get(f"quality/{m}_{which}") for m in ("psnr", "ssim", "lpips")}
        quality.add_row(f"[dim]{which}", *[fmt.format(cells[key]["mean"]) if cells.get(key) else "" for key, _, fmt, _ in shown], "")
    quality.caption = CAPTION
    if others := sum(r.results["run"]["comparable"] != about["comparable"] for r in runs):
        quality.caption += f"; {others} runs of another world, seed or backbone are not comparable and not shown"
    return Group(quality, cost)


def _published_figures(about: dict) -> set[str]:
    return {name for figures in about["config"].get("published", {}).values() for name in figures}


def _cell(summary: dict, key: str, heading: str, fmt: str, factor: float) -> str:
    if key == "bank":
        parts = [summary[f"cost/bank_bytes_{t}"]["mean"] for t in ("gpu", "cpu", "disk") if f"cost/bank_bytes_{t}" in summary]
        return fmt.format(sum(parts) * factor) if parts else ""
    if key not in summary:
        return "-"
    entry = summary[key]
    text = fmt.format(entry["mean"] * factor)
    if key == "quality/psnr_revisit":
        text += " [" + " ".join(fmt.format(v * factor) for v in entry["ci95"]) + "]"
    return text.replace("[", r"\[")


def _difference(run: Run, baseline: Run | None) -> str:
    if baseline is None or run.label == baseline.label:
        return ""
    entry = paired(run.values, baseline.values, "quality/psnr_revisit")
    return "" if entry is None else "{:+.2f} \\[{:+.2f} {:+.2f}]".format(entry["mean"], *entry["ci95"])
