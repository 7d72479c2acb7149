"""The finished runs of an experiment, as the docs and the pictures read them, and a run in one line."""

from dataclasses import dataclass
from pathlib import Path

from harness.reporting.columns import columns_of
from harness.results.run_folder import RunFolder

BASELINE = "full"
EXTERNAL = "external: cost not measured here"  # of videos that other systems made


@dataclass(frozen=True)
class FinishedRun:
    """A finished run: its label, its results and its columns by trajectory."""

    label: str
    path: Path
    results: dict
    values: dict[str, dict[str, float]]


def finished_runs(experiment: Path) -> list[FinishedRun]:
    runs = []
    for path in sorted(experiment.glob("*/results.json")):
        folder = RunFolder(path.parent)
        if results := folder.results():
            runs.append(FinishedRun(results["run"]["label"], path.parent, results, folder.values(results)))
    return runs


def headline(label: str, results: dict) -> str:
    """A run's means in one line, for logs."""
    means = results["summary"]
    shown = [f"{c.title} {c.show(means[c.key]['mean'])}" for c in columns_of([results]) if c.rank < 6]
    return f"{label}, seed {results['run']['seed']}: {', '.join(shown)}"
