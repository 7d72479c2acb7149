"""The picture of a very long rollout: what stays constant, and what grows."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from harness.reporting.media import save_figure

TIERS = {"gpu": "-", "cpu": "--", "disk": ":"}


def endurance(path: Path, runs: dict[str, list[dict]]) -> str:
    """Memory, bytes by tier, open files and the share of planning over the chunks of one rollout a policy. runs: label -> its chunk rows.

    Returns the figures in words. Growth is the slope of a line through the second half.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    (memory, tiers), (files, share) = figure.subplots(2, 2)
    said = []
    for number, (label, rows) in enumerate(sorted(runs.items())):
        color = f"C{number}"
        host, chunk, besides_passes = np.array([r["host_bytes"] for r in rows]), np.array([r["chunk"] for r in rows]), besides(rows)
        width = max(1, len(rows) // 60)
        memory.plot(chunk, (host - host[0]) / 1e6, color, label=f"{label} (from {host[0] / 1e6:.0f} MB)")
        for tier, style in TIERS.items():
            tiers.plot(chunk, [max(1, r[f"bank_bytes_{tier}"]) for r in rows], color, linestyle=style, label=f"{label}: {tier}")
        files.plot(chunk, [r["open_files"] for r in rows], color, label=label)
        share.plot(chunk[::width], [np.median(besides_passes[i : i + width]) for i in range(0, len(rows), width)], color, label=label)
        ms = 1e3 * np.array([sum(v for k, v in r.items() if k.startswith("seconds_")) for r in rows])
        said.append(f"{label}: {figures(rows, ms, host)}")
    titles = {
        memory: "process memory since the first chunk (MB)",
        tiers: "bank by tier (bytes)",
        files: "open files",
        share: "plan, assembly, commit (% of the passes)",
    }
    for axis, title in titles.items():
        axis.set(xlabel="chunk", title=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    for axis in (files, share):
        axis.set_ylim(0, None)
    tiers.set(yscale="log", ylim=(1e3, None))
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
