"""Pictures of a run: videos, contact sheets of pairs, and the cost over the rollout."""

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from harness.datatypes import Rollout, Trajectory
from harness.reporting.columns import costs
from harness.reporting.curves import over_rollout
from harness.system.files import atomic_path

matplotlib.use("agg")  # files only, no screen

SHORT_SIDE = 256  # small models' frames are enlarged, pixel by pixel, for the eye


def enlarge(frames: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y2 x2"]:
    factor = max(1, SHORT_SIDE // min(frames.shape[-2:]))
    return F.interpolate(frames, scale_factor=factor, mode="nearest")


def to_uint8(frames: Float[Tensor, "n 3 y x"]) -> np.ndarray:
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def save_video(path: Path, frames: Float[Tensor, "n 3 y x"], fps: float) -> None:
    """H.264, yuv420p (plays in browsers), sides cut to even. Written aside and renamed."""
    big = enlarge(frames)
    big = big[..., : big.shape[-2] // 2 * 2, : big.shape[-1] // 2 * 2]
    with atomic_path(path) as temporary:
        iio.imwrite(temporary, to_uint8(big), plugin="pyav", fps=round(fps), codec="libx264", out_pixel_format="yuv420p")


def save_image(path: Path, image: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        iio.imwrite(temporary, image)


def strips(rollout: Rollout, trajectory: Trajectory, rows: Sequence[dict[str, float]]) -> Float[Tensor, "n 3 y x4"]:
    """First visit | revisit | true view | difference (around grey) of each pair."""
    first, again = (torch.tensor([int(r[k]) for r in rows]) for k in ("first", "revisit"))
    a, b = rollout.frames[first], rollout.frames[again]
    truth = torch.full_like(b, 0.5) if trajectory.reference is None else trajectory.reference[again]
    return torch.cat([a, b, truth, (0.5 + b - a).clamp(0, 1)], 3)


def filmstrip(frames: Float[Tensor, "n 3 y x"], columns: int = 14) -> np.ndarray:
    """`columns` frames of a rollout, evenly spaced, side by side."""
    picked = torch.linspace(0, len(frames) - 1, columns).round().long()
    return to_uint8(torch.cat(list(frames[picked]), 2)[None])[0]


def filmstrips(path: Path, strips: Sequence[tuple[str, np.ndarray]], title: str) -> None:
    """Labelled filmstrips, one above the other: the same frames under every policy."""
    figure, axes = plt.subplots(len(strips), 1, figsize=(13, 1.02 * len(strips) + 0.4), squeeze=False, layout="constrained")
    for axis, (label, image) in zip(axes.flat, strips, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        axis.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=10)
    save_figure(path, figure)


def contact_sheet(path: Path, entries: Sequence[tuple[str, np.ndarray]]) -> None:
    """Captioned strips, one above the other."""
    columns = 2
    lines = -(-len(entries) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(12, 1.75 * lines + 0.6), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, (caption, image) in zip(axes.T.flat, entries, strict=False):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(caption, fontsize=8, loc="left")
    figure.suptitle("first visit | revisit | true view | difference around grey (left: best pairs, right: worst)", fontsize=9)
    save_figure(path, figure)


def cost_plot(path: Path, series: dict[str, list[list[dict]]], title: str) -> None:
    """FPS, attended tokens and stored bytes over the rollout. series: label -> chunk rows of its trajectories."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    panels = {"cost/fps_mean": "video frames a second", "cost/attended_tokens": "tokens attended", "cost/stored_bytes": "window + bank (MB)"}
    factors = {c.key: c.factor for c in costs()}
    shared = []
    for name, trajectories in series.items():
        n, curves = over_rollout(trajectories)
        shared.append(f"{n} of {len(trajectories)}")
        for axis, key in zip(axes, panels, strict=True):
            axis.plot(curves["frame"], [v * factors[key] for v in curves[key]], label=name, linewidth=1.6)
    for axis, label in zip(axes, panels.values(), strict=True):
        axis.set(xlabel="latent frame", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{title} ({', '.join(dict.fromkeys(shared))}, the same at every point)", fontsize=10)
    save_figure(path, figure)


def save_figure(path: Path, figure: Figure) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
