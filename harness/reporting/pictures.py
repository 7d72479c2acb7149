"""Which pictures a run and an experiment get: best and worst pairs, cost over the rollout, all policies side by side."""

import logging
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from harness.reporting.groups import read_runs
from harness.reporting.media import contact_sheet, cost_plot, filmstrips
from harness.reporting.recall_plot import recall_plot
from harness.results.run_folder import RunFolder
from harness.system.files import file_name, visible
from metrics.column import leading_score

log = logging.getLogger(__name__)


def run_pictures(folder: RunFolder, label: str) -> None:
    """frames.png (best and worst pairs) and chunks.png (cost over the rollout) of one run."""
    records = folder.good(folder.results())
    rated = sorted((r for r in records if r.pairs), key=lambda r: -sum(map(leading_score, r.pairs)) / len(r.pairs))
    chosen = rated if len(rated) <= 12 else rated[:6] + rated[-6:]
    entries = []
    for half in (0, 1):  # each picture holds the best pair above the worst
        for r in chosen:
            image = picture(folder.path / "trajectories" / f"{file_name(r.name)}.png")
            if image is None:
                continue
            part = np.split(image[: len(image) // 2 * 2], 2)[half]
            row = (max if half == 0 else min)(r.pairs, key=leading_score)
            score = f"{row['psnr_revisit']:.1f} dB" if "psnr_revisit" in row else f"{abs(leading_score(row)):.3g}"
            entries.append((f"{r.name} {int(row['first'])}/{int(row['revisit'])}: {score}", part))
    if entries:
        contact_sheet(folder.path / "frames.png", entries)
    cost_plot(folder.path / "chunks.png", {label: [r.chunks for r in records]}, f"{label}: cost over the rollout, median of {len(records)} trajectories")


def experiment_pictures(experiment: Path, current: Path) -> None:
    """cost.png, recall.png and frames.png of an experiment: the runs that may be compared with the current one, as in its table. Speed is
    drawn of those that the current one's device has run."""
    found, _ = read_runs(experiment)
    mine = next(r for r in found if r.path.resolve() == current.resolve())
    runs = {r.name: r for r in sorted(found, key=lambda r: r.name) if r.group == mine.group}
    elsewhere = {name for name, r in runs.items() if r.about["device"] != mine.about["device"]}
    rows = {name: [record.chunks for record in r.records] for name, r in runs.items()}
    cost_plot(experiment / "cost.png", rows, f"{experiment.name}: cost over the rollout, median over trajectories", elsewhere)
    probes = {name: [record.probes for record in r.records] for name, r in runs.items()}
    recall_plot(experiment / "recall.png", probes, f"{experiment.name}: recall probes, mean over trajectories and 95 % intervals")
    for true in sorted(filter(visible, (current / "videos").glob("*_true.png")))[:1]:
        own = f"{true.stem.removesuffix('_true')}.png"
        strips = [("true view", true)] + [(name, r.path / "videos" / own) for name, r in runs.items()]
        images = [(name, image) for name, p in strips if (image := picture(p)) is not None]
        if images:
            filmstrips(experiment / "frames.png", images, f"{experiment.name}: {own.removesuffix('.png')}")


def picture(path: Path) -> np.ndarray | None:
    """A picture of a run, or None where there is none or it is damaged: the others are drawn."""
    try:
        return iio.imread(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, SyntaxError) as error:  # Pillow takes a broken PNG for a syntax error
        log.warning("%s is damaged and left out (%s)", path, error)
        return None
