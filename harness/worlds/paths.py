"""A recorded camera path: its poses at the video's frame rate, its actions, its cut to whole chunks, and what can be said of it in a line."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.worlds.formats import read_cameras
from harness.worlds.formats.arrays import read_array
from harness.worlds.formats.cameras import Cameras
from harness.worlds.frusta import reach
from harness.worlds.poses import angle, differentiate, resample

WALKS = 0.02  # metres a frame, or a hundredth of the path's reach where that is less: what counts as walking when its direction is looked at


@dataclass(frozen=True)
class CameraPath:
    """A recorded path, one pose and one row of actions a video frame. at: their indices among the `recorded` poses. cameras: the file's."""

    c2w: Float[Tensor, "p 4 4"]
    actions: Float[Tensor, "p 6"]
    at: Float[Tensor, "p"]
    recorded: int
    cameras: Cameras


def read_path(folder: Path, rate: float = 1.0, step: float | None = None, convention: str | None = None, direction: str | None = None) -> CameraPath:
    """Poses of a folder, and its actions or those that `derived_actions` finds. rate: recorded poses a video frame. convention, direction: see
    `Cameras.opencv`.

    Raises FileNotFoundError or ValueError that name the file and what it should hold.
    """
    cameras = read_cameras(folder)
    c2w = cameras.opencv(convention, direction)
    recorded = len(c2w)
    at = torch.arange(int((recorded - 1) / rate + 1e-6) + 1, dtype=torch.float64).mul(rate).clamp(max=recorded - 1)
    if rate != 1:
        c2w = resample(c2w, at)
    file = folder / "actions.npy"
    if not file.exists():
        return CameraPath(c2w, derived_actions(c2w, step), at, recorded, cameras)
    actions = torch.from_numpy(read_array(file).astype(np.float64)).float()
    if actions.shape != (recorded, 6):
        raise ValueError(f"{file}: actions are {tuple(actions.shape)}, expected ({recorded}, 6): W S A D yaw pitch")
    if not torch.isfinite(actions).all():
        raise ValueError(f"{file}: actions hold NaN or infinity at frame {int((~torch.isfinite(actions)).any(1).nonzero()[0])}")
    if rate != 1:  # the share of a frame's time that a key is down; the sum of the turns made in it
        total = torch.cat([actions[:1] * 0, actions[1:].double().cumsum(0)])
        low = at.floor().long()
        done = torch.lerp(total[low], total[(low + 1).clamp(max=recorded - 1)], (at - low)[:, None]).diff(dim=0)
        done[:, :4] /= rate
        actions = torch.cat([actions[:1], done.float()])
    return CameraPath(c2w, actions, at, recorded, cameras)


def derived_actions(c2w: Float[Tensor, "p 4 4"], step: float | None = None) -> Float[Tensor, "p 6"]:
    """Keys and turns that lead along a path. A key is down (1) in frames that move at least half a `step` its way.

    step: metres a frame. None takes the path's own, since its unit may be any: the median over the frames that move, by more
    than a tenth of the longest step, which leaves out a tripod's trembling.
    """
    if step is None:
        far = torch.cat([torch.zeros(1), c2w[:, [0, 2], 3].diff(dim=0).norm(dim=-1)])
        moving = far[far > max(1e-6, far.max().item() / 10)]
        step = moving.median().item() if len(moving) else 1.0
    actions = differentiate(c2w, step)
    actions[:, :4] = (actions[:, :4] >= 0.5).float()
    return actions


def frame_rate(path_fps: float | None, fps: float) -> float:
    """Recorded poses a video frame. Raises ValueError for a frame rate that is not positive."""
    if fps <= 0 or (path_fps is not None and path_fps <= 0):
        raise ValueError(f"world.fps={fps}, world.path_fps={path_fps}; use frame rates above 0, or path_fps=null for world.fps")
    return 1.0 if path_fps is None else path_fps / fps


def check_stride(stride_px: int, chunk_px: int) -> int:
    """`stride_px`, if a chunk is made of whole latent frames; ValueError otherwise."""
    if stride_px < 1 or chunk_px < stride_px or chunk_px % stride_px:
        raise ValueError(f"world.chunk_px={chunk_px} is no multiple of world.stride_px={stride_px}; the Wan family has 12 and 4, rooms has 3 and 1")
    return stride_px


def whole_chunks(frames: int, chunk_px: int, stride_px: int) -> int:
    """Video frames of the whole chunks among `frames`: the first latent frame is 1 video frame, every other `stride_px`."""
    short = stride_px - 1
    return max(0, (frames + short) // chunk_px * chunk_px - short)


def described(path: CameraPath) -> str:
    """Extent, turn and height of a path, so that poses that were read wrongly are seen; and which reading would make it walk where it looks."""
    c2w = path.c2w
    turned = angle(c2w[:1, :3, :3], c2w[:, :3, :3]).max().item()
    height = -(c2w[:, 1, 3] - c2w[0, 1, 3])  # y points down
    cameras = path.cameras
    said = (
        f"{cameras.file.name} ({cameras.convention}, {cameras.direction}): {path.recorded} poses, reaches {reach(c2w):.3g} m, turns up to {turned:.3g} degrees"
    )
    said += f", height {height.min():+.2g} to {height.max():+.2g} m"
    if cameras.times is not None and len(cameras.times) > 1 and (span := cameras.times[-1] - cameras.times[0]) > 0:
        said += f", {(len(cameras.times) - 1) / span:.3g} poses a second (world.path_fps)"
    return said + (f"; {hint}" if (hint := reading_hint(c2w)) else "")


def reading_hint(c2w: Float[Tensor, "p 4 4"]) -> str:
    """Which other reading of the poses a walk speaks for; empty where it speaks for none. Who walks mostly looks ahead."""
    ahead = _ahead(c2w)
    if ahead is None:
        return ""
    if ahead < -0.7:
        return "it walks backwards most of the way: are these world.convention=opengl?"
    inverse = _ahead(torch.linalg.inv(c2w.double()).float())
    if abs(ahead) < 0.5 and inverse is not None and abs(inverse) > 0.9:
        return "inverted it would walk where it looks: are these world.direction=w2c?"
    return ""


def _ahead(c2w: Float[Tensor, "p 4 4"]) -> float | None:
    """Mean cosine between where a path leads and where the camera looks; None for one that hardly moves."""
    moved = c2w[:, :3, 3].diff(dim=0)
    far = moved.norm(dim=1)
    walking = far > min(WALKS, reach(c2w) / 100)
    if walking.sum() < 5:
        return None
    return ((moved * c2w[:-1, :3, 2]).sum(1) / far)[walking].mean().item()
