"""Pictures of a run: videos, contact sheets of pairs, and the cost over the rollout.

matplotlib is imported by what draws with it: videos and strips do without, and its import takes half a second.
"""

import io
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import av
import imageio.v3 as iio
import numpy as np
import torch
from av.error import FFmpegError
from jaxtyping import Float, UInt8
from torch import Tensor

from harness.outcome import Rollout
from harness.reporting.columns import costs
from harness.reporting.curves import over_rollout
from harness.system.files import FREE_SPACE, write_bytes
from harness.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
SHORT_SIDE = 256  # small models' frames are enlarged, pixel by pixel, for the eye
ENCODER = {"preset": "superfast", "crf": "23"}  # of x264: a fifth of its default's time, a tenth more bytes, the same PSNR within 0.4 dB


def to_uint8(frames: Float[Tensor, "n 3 y x"]) -> UInt8[np.ndarray, "n y x 3"]:
    return (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def save_video(path: Path, frames: UInt8[np.ndarray, "n y x 3"], fps: float) -> None:
    """H.264, yuv420p (plays in browsers), small frames enlarged, sides cut to even. Encoded in memory, written aside and renamed.

    Raises OSError with the path and the remedy where the file cannot be written.
    """
    factor = max(1, SHORT_SIDE // min(frames.shape[1:3]))
    height, width = (n * factor // 2 * 2 for n in frames.shape[1:3])
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # the thread that asks: what runs beside it is being timed
        for frame in frames:
            big = frame.repeat(factor, 0).repeat(factor, 1)[:height, :width]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(big), format="rgb24")))
        container.mux(stream.encode(None))
    write_bytes(path, file.getvalue(), FREE_SPACE)


def video_frames(path: Path) -> Iterator[UInt8[np.ndarray, "y x 3"]]:
    """The frames of a video, one after the other. By PyAV itself: imageio collects all garbage (0.3 s) when it closes a video.

    Raises FFmpegError or IndexError for a file that is none.
    """
    with av.open(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def save_image(path: Path, image: UInt8[np.ndarray, "y x 3"]) -> None:
    """A picture in the format of its suffix. Raises OSError as `save_video` does."""
    write_bytes(path, iio.imwrite("<bytes>", image, extension=path.suffix), FREE_SPACE)


def strips(rollout: Rollout, trajectory: Trajectory, rows: Sequence[dict[str, float]]) -> Float[Tensor, "n 3 y x4"]:
    """First visit | revisit | true view | difference (around grey) of each pair."""
    first, again = (torch.tensor([int(r[k]) for r in rows]) for k in ("first", "revisit"))
    a, b = rollout.frames[first], rollout.frames[again]
    truth = torch.full_like(b, 0.5) if trajectory.reference is None else trajectory.reference[again]
    return torch.cat([a, b, truth, (0.5 + b - a).clamp(0, 1)], 3)


def filmstrip(frames: UInt8[np.ndarray, "n y x 3"], columns: int = 14) -> UInt8[np.ndarray, "y x2 3"]:
    """`columns` frames of a rollout, evenly spaced, side by side."""
    picked = torch.linspace(0, len(frames) - 1, columns).round().long().numpy()
    return np.concatenate(list(frames[picked]), 1)


def filmstrips(path: Path, strips: Sequence[tuple[str, np.ndarray]], title: str) -> None:
    """Labelled filmstrips, one above the other: the same frames under every policy."""
    wide, names = 11.6, 1.4  # inches, of the strips and of their labels
    tall = wide * strips[0][1].shape[0] / strips[0][1].shape[1]
    height = (tall + 0.06) * len(strips) + 0.34
    figure, sheet = _sheet(wide + names, height)
    for i, (label, image) in enumerate(strips):
        low = height - 0.3 - i * (tall + 0.06) - tall
        sheet.imshow(image, interpolation="nearest", extent=(names, names + wide, low, low + tall))
        sheet.text(names - 0.08, low + tall / 2, label, ha="right", va="center", fontsize=9)
    sheet.text((wide + names) / 2, height - 0.08, title, ha="center", va="top", fontsize=10)
    _fill(sheet, wide + names, height)
    save_figure(path, figure)


def films(folder: Path, name: str, rollout: Rollout, trajectory: Trajectory, pairs: Sequence[dict[str, float]]) -> Iterator[Callable[[], None]]:
    """What a trajectory's pictures and videos are: each is written when it is called. folder: videos/ of a run. name: of the files."""
    frames = to_uint8(rollout.frames)
    yield partial(save_image, folder / f"{name}.png", filmstrip(frames))
    if trajectory.reference is not None:
        truth = to_uint8(trajectory.reference[: len(frames)])
        yield partial(save_image, folder / f"{name}_true.png", filmstrip(truth))
        frames = np.concatenate([frames, truth], 2)
    yield partial(save_video, folder / f"{name}.mp4", frames, trajectory.fps)
    if pairs:
        rows = sorted(pairs, key=lambda r: r["revisit"])
        yield partial(save_video, folder / f"{name}_pairs.mp4", to_uint8(strips(rollout, trajectory, rows)), trajectory.fps / 2)


def drawn(job: Callable[[], object]) -> None:
    """Draw or film. What an encoder cannot do costs no result; a disk that is full is raised, for a record would not fit either."""
    try:
        job()
    except FFmpegError as error:
        log.warning("a video was not written: %s", error)
    except (ValueError, RuntimeError, LookupError, ImportError) as error:
        log.warning("a picture or video was not written: %s: %s", type(error).__name__, error)


def contact_sheet(path: Path, entries: Sequence[tuple[str, np.ndarray]]) -> None:
    """Captioned strips of one size, in two columns, one above the other."""
    lines, wide = -(-len(entries) // 2), 5.8  # inches
    tall = wide * entries[0][1].shape[0] / entries[0][1].shape[1]
    line, height = tall + 0.28, (tall + 0.28) * lines + 0.45
    figure, sheet = _sheet(12, height)
    for i, (caption, image) in enumerate(entries):
        column, row = divmod(i, lines)
        left, low = 0.1 + 6 * column, height - 0.64 - line * row - tall
        sheet.imshow(image, interpolation="nearest", extent=(left, left + wide, low, low + tall))
        sheet.text(left, low + tall + 0.04, caption, fontsize=8)
    title = "first visit | revisit | true view | difference around grey (left: best pairs, right: worst)"
    sheet.text(6, height - 0.12, title, ha="center", va="top", fontsize=9)
    _fill(sheet, 12, height)
    save_figure(path, figure)


def cost_plot(path: Path, series: dict[str, list[list[dict]]], title: str, elsewhere: Collection[str] = ()) -> None:
    """FPS, attended tokens and stored bytes over the rollout. series: label -> chunk rows of its trajectories. elsewhere: labels of what ran on another
    device, whose FPS is not drawn."""
    figure = new_figure(13, 3.6)
    axes = [figure.add_axes((0.05 + 0.335 * i, 0.13, 0.26, 0.78)) for i in range(3)]  # by hand: matplotlib's own layout takes longer than the drawing
    panels = {"cost/fps_mean": "video frames a second", "cost/attended_tokens": "tokens attended", "cost/stored_bytes": "stored (MB)"}
    factors = {c.key: c.factor for c in costs()}
    shared = []
    for name, trajectories in series.items():
        n, curves = over_rollout(trajectories)
        shared.append(f"{n} of {len(trajectories)}")
        for axis, key in zip(axes, panels, strict=True):
            values = [v * factors[key] for v in curves[key]] if name not in elsewhere or key != "cost/fps_mean" else [float("nan")] * len(curves[key])
            axis.plot(curves["frame"], values, label=f"{name} (another device)" if name in elsewhere else name, linewidth=1.6)
    for axis, label in zip(axes, panels.values(), strict=True):
        axis.set(xlabel="latent frame", ylabel=label, ylim=(0, 1.05 * max(axis.dataLim.y1, 1e-3)))
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{title} ({', '.join(dict.fromkeys(shared))}, the same at every point)", fontsize=10)
    save_figure(path, figure)


def save_figure(path: Path, figure: "Figure") -> None:
    """Write a figure. Raises OSError as `save_video` does."""
    file = io.BytesIO()
    figure.savefig(file, format=path.suffix.removeprefix("."), dpi=110, pil_kwargs={"compress_level": 2} if path.suffix == ".png" else None)
    write_bytes(path, file.getvalue(), FREE_SPACE)


def new_figure(width: float, height: float) -> "Figure":
    """An empty one, in inches, for a file and no screen."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _sheet(width: float, height: float) -> "tuple[Figure, Axes]":
    """A figure with one plane over all of it, measured in inches: pictures on it take a third of the time that one plane for each takes."""
    figure = new_figure(width, height)
    sheet = figure.add_axes((0, 0, 1, 1))
    sheet.axis("off")
    return figure, sheet


def _fill(sheet: "Axes", width: float, height: float) -> None:
    """Show all of a sheet: every picture that is put on it moves its limits and its aspect."""
    sheet.set(xlim=(0, width), ylim=(0, height), aspect="auto")
