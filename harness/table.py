"""The comparison of an experiment's runs as a table for the terminal."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from harness.results import RunFolder, paired

BASELINE = "full"
COLUMNS = (  # key, heading, format, unit factor
    ("quality/psnr_revisit", "PSNR revisit", "{:.2f}", 1),
    ("quality/ssim_revisit", "SSIM", "{:.3f}", 1),
    ("quality/lpips_revisit", "LPIPS", "{:.3f}", 1),
    ("quality/psnr_reference", "PSNR true view", "{:.2f}", 1),
    ("cost/fps_mean", "FPS", "{:.1f}", 1),
    ("cost/fps_last", "FPS last", "{:.1f}", 1),
    ("cost/attended_tokens", "tokens", "{:.0f}", 1),
    ("cost/window_bytes", "window MB", "{:.2f}", 1e-6),
    ("bank", "bank MB", "{:.2f}", 1e-6),
    ("cost/unreachable_frames", "lost", "{:.1f}", 1),
)


@dataclass(frozen=True)
class Run:
    """A finished run: its label, its results and its columns by trajectory."""

    label: str
    results: dict
    values: dict[str, dict[str, float]]


def finished_runs(experiment: Path) -> list[Run]:
    runs = []
    for path in sorted(experiment.glob("*/results.json")):
        folder = RunFolder(path.parent)
        if results := folder.results():
            runs.append(Run(results["run"]["label"], results, folder.values()))
    return runs


def comparison(experiment: Path, current: Run) -> Table:
    """Every finished run of an experiment, the current one marked, with floor, ceiling and paired differences."""
    runs = {r.label: r for r in finished_runs(experiment)} | {current.label: current}
    same = {k: r for k, r in runs.items() if r.results["run"]["comparable"] == current.results["run"]["comparable"]}
    baseline = same.get(BASELINE)
    summary = current.results["summary"]
    n = current.results["run"]["trajectories"]
    table = Table(title=f"{experiment.name}: {n} trajectories, {current.results['run']['world']} ({current.results['run']['protocol']}), mean [95 % interval]")
    table.add_column("policy")
    for _, heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column(f"dPSNR - {BASELINE}", justify="right")
    for label, run in sorted(same.items()):
        mark = "[bold]" if label == current.label else ""
        table.add_row(mark + label, *(_cell(run.results["summary"], *c) for c in COLUMNS), _difference(run, baseline))
    for which in ("floor", "ceiling"):
        cells = {f"quality/{m}_revisit": summary.get(f"quality/{m}_{which}") for m in ("psnr", "ssim", "lpips")}
        row = [fmt.format(cells[key]["mean"]) if cells.get(key) else "" for key, _, fmt, _ in COLUMNS]
        table.add_row(f"[dim]{which}", *row, "", end_section=which == "ceiling")
    others = len(runs) - len(same)
    table.caption = "PSNR in dB; floor: unrelated views of the same rollout; ceiling: the codec's round trip; lost: frames nothing could reach"
    if others:
        table.caption += f"; {others} runs of other worlds, seeds or backbones are not comparable and not shown"
    return table


def _cell(summary: dict, key: str, heading: str, fmt: str, factor: float) -> str:
    if key == "bank":
        parts = [summary[f"cost/bank_bytes_{t}"]["mean"] for t in ("gpu", "cpu") if f"cost/bank_bytes_{t}" in summary]
        return fmt.format(sum(parts) * factor) if parts else ""
    if key not in summary:
        return "-"
    entry = summary[key]
    text = fmt.format(entry["mean"] * factor)
    if key == "quality/psnr_revisit":
        text += " [" + ", ".join(fmt.format(v * factor) for v in entry["ci95"]) + "]"
    return text.replace("[", r"\[")


def _difference(run: Run, baseline: Run | None) -> str:
    if baseline is None or run.label == baseline.label:
        return ""
    entry = paired(run.values, baseline.values, "quality/psnr_revisit")
    return "" if entry is None else "{:+.2f} \\[{:+.2f}, {:+.2f}]".format(entry["mean"], *entry["ci95"])
