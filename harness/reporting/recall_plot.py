"""recall.png of an experiment: how well views are recalled, against how long ago they were last seen."""

from collections.abc import Mapping
from pathlib import Path

from harness.reporting.media import new_figure, save_figure
from harness.results.recall import Probes, binned
from metrics.column import recalled


def recall_plot(path: Path, runs: Mapping[str, Probes], title: str) -> bool:
    """A curve a run: the first score of its recall probes (against the first visit, from beside against the true view), probes pooled by gaps of 1,
    2 to 3, 4 to 7, ... chunks; the mean over trajectories, its 95 % t interval, and how many trajectories have such probes. Returns whether any run has
    probes; without, nothing is drawn.
    """
    scores = recalled(row for probes in runs.values() for rows in probes for row in rows)
    if not scores:
        return False
    curves = {name: binned(probes, scores[0]) for name, probes in runs.items()}
    figure = new_figure(7.5, 4.3)
    axis = figure.add_axes((0.09, 0.17, 0.66, 0.75))
    gaps = sorted({gap for curve in curves.values() for gap in curve})
    for place, (name, curve) in enumerate(sorted(curves.items(), key=lambda item: -_last(item[1]))):
        shift = 2 ** (0.08 * (place - (len(curves) - 1) / 2) / max(1, len(curves) - 1) * 2)  # bars side by side
        x, (y, error, _) = [gap * shift for gap in curve], zip(*curve.values(), strict=True) if curve else ((), (), ())
        axis.errorbar(x, y, error, marker="o", markersize=3.5, linewidth=1.4, elinewidth=0.8, label=name)
    score = scores[0].removesuffix("_true").upper()
    axis.set(xscale="log", xlabel="chunks since the view was last seen, at least", ylabel=f"{score} recall{' (dB)' if score == 'PSNR' else ''}")
    counts = {gap: sorted({curve[gap][2] for curve in curves.values() if gap in curve}) for gap in gaps}
    axis.set_xticks(gaps, [f"{gap}\nn={'–'.join(map(str, dict.fromkeys((counts[gap][0], counts[gap][-1]))))}" for gap in gaps])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
    figure.suptitle(title, fontsize=10)
    save_figure(path, figure)
    return True


def _last(curve: dict[int, tuple[float, float, int]]) -> float:
    return curve[max(curve)][0] if curve else float("-inf")
