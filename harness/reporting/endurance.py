"""The picture of a very long rollout: what stays constant, and what grows."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harness.reporting.media import save_figure

TIERS = {"gpu": "-", "cpu": "--", "disk": ":"}


def endurance(path: Path, runs: dict[str, list[dict]]) -> str:
    """Time, memory, bytes by tier and open files over the chunks of one rollout a policy. runs: label -> its chunk rows.

    Returns the figures in words. Growth is the slope of a line through the second half.
    """
    figure = Figure(figsize=(19, 3.4), layout="constrained")
    axes = figure.subplots(1, 5)
    said = []
    for number, (label, rows) in enumerate(sorted(runs.items())):
        color = f"C{number}"
        ms = 1e3 * np.array([sum(v for k, v in r.items() if k.startswith("seconds_")) for r in rows])
        host, chunk = np.array([r["host_bytes"] for r in rows]), np.array([r["chunk"] for r in rows])
        width = max(1, len(rows) // 60)
        for axis, values in ((axes[0], ms), (axes[4], besides(rows))):
            axis.plot(chunk[::width], [np.median(values[i : i + width]) for i in range(0, len(rows), width)], color, label=label)
        axes[1].plot(chunk, host / 1e6, color, label=label)
        for tier, style in TIERS.items():
            axes[2].plot(chunk, [max(1, r[f"bank_bytes_{tier}"]) for r in rows], color, linestyle=style, label=f"{label}: {tier}")
        axes[3].plot(chunk, [r["open_files"] for r in rows], color, label=label)
        said.append(f"{label}: {figures(rows, ms, host)}")
    for axis, title in zip(
        axes, ("ms a chunk (medians)", "process memory (MB)", "bank by tier (bytes)", "open files", "plan, assembly, commit: % of passes"), strict=True
    ):
        axis.set(xlabel="chunk", title=title, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    axes[2].set(yscale="log", ylim=(1e3, None))
    save_figure(path, figure)
    return "\n".join(said)


def figures(rows: list[dict], ms: np.ndarray, host: np.ndarray) -> str:
    """What the second half says, in one line."""
    half, quarter = len(rows) // 2, len(rows) // 4
    slope = np.polyfit(np.arange(half, len(rows)), host[half:], 1)[0]
    bank = ", ".join(f"{tier} {max(r[f'bank_bytes_{tier}'] for r in rows):,}" for tier in TIERS)
    files = [r["open_files"] for r in rows[len(rows) // 20 :]]
    part = besides(rows)
    return (
        f"{len(rows)} chunks; process memory grows by {slope / 1e3:.1f} kB a chunk of {host[-1] / 1e6:.0f} MB; median {np.median(ms[quarter:half]):.0f} ms "
        f"in the second quarter, {np.median(ms[-quarter:]):.0f} ms in the last; plan, assembly and commit "
        f"{np.median(part[quarter:half]):.0f} % of the passes, then {np.median(part[-quarter:]):.0f} %; "
        f"most bytes {bank}; {min(files)} to {max(files)} open files"
    )


def besides(rows: list[dict]) -> np.ndarray:
    """Plan, assembly and commit in percent of the passes, whose work is constant while the window is full: a machine that other
    work slows down slows down both."""
    return np.array([100 * sum(r[f"seconds_{p}"] for p in ("plan", "assemble", "commit")) / r["seconds_passes"] for r in rows])
