"""`world=recorded`: camera paths from files, with an image to start from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import Trajectory
from harness.worlds.base import World, given_frames
from harness.worlds.poses import differentiate, resample
from harness.worlds.revisits import find_pairs

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


class RecordedWorld(World):
    """One trajectory for each folder below `folder` (or `folder` itself) that holds poses.npy or one *_poses.npy.

    Files: poses (F,4,4, OpenCV camera-to-world), intrinsics likewise (F,4 or 1,4: fx fy cx cy in pixels of
    `intrinsics_size`), a first image (png, jpg, webp; named first.* if there are several), optional frames.npy
    (F,y,x,3 uint8: true views) and actions.npy (F,6; derived from the poses where there is none). lead_in: hold the first
    pose for this many more frames, so that a backbone that starts from a whole chunk has one. chunk_px, stride_px: video
    frames that a chunk and a latent frame add; a path is cut to whole chunks. path_fps: frame rate of the files, None for
    `fps`. step: see `derived_actions`.
    Raises FileNotFoundError or ValueError that name the file and what it should hold.
    """

    def __init__(
        self,
        folder: str,
        size: Sequence[int],
        protocol: str,
        lead_in: int,
        intrinsics_size: Sequence[int],
        fps: float,
        min_gap: int,
        overlap: float,
        chunk_px: int,
        stride_px: int = 1,
        path_fps: float | None = None,
        step: float | None = None,
    ) -> None:
        root = Path(folder)
        if not root.is_dir():
            raise FileNotFoundError(f"world.folder={folder} is no folder; give one with poses.npy, intrinsics.npy and a first image")
        found = {p.parent for pattern in ("poses.npy", "*_poses.npy") for p in root.rglob(pattern)}
        if not found:
            raise FileNotFoundError(f"{folder}: no poses.npy or *_poses.npy in it or below it")
        self.folders = sorted(found)
        self._names = tuple(str(p.relative_to(root)).replace("/", "_") if p != root else root.resolve().name for p in self.folders)
        self.size, self.protocol, self.lead_in = (size[0], size[1]), protocol, lead_in
        self.scale = (size[0] / intrinsics_size[0], size[1] / intrinsics_size[1])
        self.fps, self.min_gap, self.overlap, self.step = fps, min_gap, overlap, step
        self.chunk_px, self.stride_px, self.rate = chunk_px, check_stride(stride_px, chunk_px), frame_rate(path_fps, fps)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def trajectory(self, index: int) -> Trajectory:
        folder, lead = self.folders[index], self.lead_in
        path = read_path(folder, self.rate, self.step)
        intrinsics = torch.from_numpy(_array(folder, "intrinsics")).float()
        if intrinsics.ndim != 2 or intrinsics.shape[1] != 4 or len(intrinsics) not in (1, path.recorded):
            raise ValueError(f"{folder}: intrinsics are {tuple(intrinsics.shape)}, expected ({path.recorded}, 4) or (1, 4): fx fy cx cy")
        intrinsics = intrinsics.expand(path.recorded, 4)[path.at.round().long()] * torch.tensor([self.scale[1], self.scale[0]] * 2)
        truth = self._truth(folder, path)
        held = [torch.cat([x[:1].expand(lead, *x.shape[1:]), x]) for x in (path.c2w, intrinsics, path.actions)]
        keep = whole_chunks(len(held[0]), self.chunk_px, self.stride_px)
        if keep == 0:
            need = self.chunk_px - self.stride_px + 1
            raise ValueError(f"{folder}: {len(path.c2w)} poses and lead_in={lead} make less than one chunk of {need} frames")
        c2w, intrinsics, actions = (x[:keep] for x in held)
        if truth is not None:
            truth = torch.cat([truth[:1].expand(lead, -1, -1, -1), truth])[:keep]
            images = truth[: given_frames(c2w, self.protocol, self.chunk_px) - self.stride_px + 1]
        else:
            images = resize(self._first_image(folder), self.size).expand(1 + lead, -1, -1, -1)
        horizontal = 2 * torch.rad2deg(torch.atan(self.size[1] / 2 / intrinsics[0, 0])).item()
        pairs = find_pairs(c2w, horizontal, self.stride_px, self.min_gap, overlap=self.overlap)
        return Trajectory(self._names[index], c2w, intrinsics, actions, images, pairs, self.fps, reference=truth)

    def _truth(self, folder: Path, path: "CameraPath") -> Float[Tensor, "p 3 y x"] | None:
        if not (folder / "frames.npy").exists():
            return None
        array = np.load(folder / "frames.npy")
        if array.ndim != 4 or len(array) != path.recorded or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(f"{folder}/frames.npy is {array.dtype} {array.shape}, expected uint8 ({path.recorded}, y, x, 3)")
        at = path.at.round().long()
        if not torch.equal(at.double(), path.at):
            raise ValueError(f"{folder}/frames.npy has no frame at every 1/{self.fps:g} s of a recording at world.path_fps; record at a multiple, or remove it")
        return resize(torch.from_numpy(array)[at].permute(0, 3, 1, 2).float() / 255, self.size)

    def _first_image(self, folder: Path) -> Float[Tensor, "1 3 y x"]:
        images = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGES]
        chosen = [p for p in images if p.stem == "first"] or images
        if len(chosen) != 1:
            raise FileNotFoundError(
                f"{folder}: found {len(images)} images ({', '.join(p.name for p in images)}); put one in it, or name the first frame first.png"
            )
        return read_image(chosen[0])


@dataclass(frozen=True)
class CameraPath:
    """A recorded path, one pose and one row of actions a video frame. at: their indices among the `recorded` poses."""

    c2w: Float[Tensor, "p 4 4"]
    actions: Float[Tensor, "p 6"]
    at: Float[Tensor, "p"]
    recorded: int


def read_path(folder: Path, rate: float = 1.0, step: float | None = None) -> CameraPath:
    """Poses of a folder, and its actions or those that `derived_actions` finds. rate: recorded poses a video frame.

    Raises FileNotFoundError or ValueError that name the file and what it should hold.
    """
    c2w = check_poses(_array(folder, "poses"), folder)
    recorded = len(c2w)
    at = torch.arange(int((recorded - 1) / rate + 1e-6) + 1, dtype=torch.float64).mul(rate).clamp(max=recorded - 1)
    if rate != 1:
        c2w = resample(c2w, at)
    if not (folder / "actions.npy").exists():
        return CameraPath(c2w, derived_actions(c2w, step), at, recorded)
    actions = torch.from_numpy(np.load(folder / "actions.npy")).float()
    if actions.shape != (recorded, 6):
        raise ValueError(f"{folder}: actions are {tuple(actions.shape)}, expected ({recorded}, 6): W S A D yaw pitch")
    if rate != 1:  # the share of a frame's time that a key is down; the sum of the turns made in it
        total = torch.cat([actions[:1] * 0, actions[1:].double().cumsum(0)])
        low = at.floor().long()
        done = torch.lerp(total[low], total[(low + 1).clamp(max=recorded - 1)], (at - low)[:, None]).diff(dim=0)
        done[:, :4] /= rate
        actions = torch.cat([actions[:1], done.float()])
    return CameraPath(c2w, actions, at, recorded)


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


def read_image(file: Path) -> Float[Tensor, "1 3 y x"]:
    """A picture in [0, 1], upright as its camera noted. Raises ValueError for a file that holds none."""
    try:
        array = iio.imread(file, plugin="pillow", index=0, mode="RGB", rotate=True)
    except (OSError, SyntaxError) as error:  # Pillow reports damaged PNG files as syntax errors
        raise ValueError(f"{file} is damaged or no image ({error}); replace it with a png, jpg or webp") from error
    return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255


def resize(images: Float[Tensor, "n 3 y x"], size: tuple[int, int]) -> Float[Tensor, "n 3 y2 x2"]:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _array(folder: Path, name: str) -> np.ndarray:
    """The array in NAME.npy or the only *_NAME.npy of a folder."""
    files = [p for p in (folder / f"{name}.npy",) if p.exists()] or sorted(folder.glob(f"*_{name}.npy"))
    if len(files) != 1:
        raise FileNotFoundError(f"{folder}: expected {name}.npy or one *_{name}.npy, found {[p.name for p in files]}")
    try:
        return np.load(files[0])
    except ValueError as error:
        raise ValueError(f"{files[0]} is damaged or no array file ({error})") from error


def check_poses(array: np.ndarray, origin: Path | str) -> Float[Tensor, "f 4 4"]:
    """Camera-to-world matrices as float32. Raises ValueError for a wrong shape, NaN, or rotations that are none."""
    c2w = torch.from_numpy(np.asarray(array)).double()
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
        raise ValueError(f"{origin}: poses are {tuple(c2w.shape)}, expected (F, 4, 4) camera-to-world matrices")
    if not torch.isfinite(c2w).all():
        raise ValueError(f"{origin}: poses hold NaN or infinity at frame {int((~torch.isfinite(c2w)).flatten(1).any(1).nonzero()[0])}")
    r = c2w[:, :3, :3]
    error = (r @ r.transpose(1, 2) - torch.eye(3, dtype=r.dtype)).abs().amax((1, 2))
    if error.max() > 1e-3 or (torch.linalg.det(r) < 0).any():
        raise ValueError(f"{origin}: frame {int(error.argmax())} is no rigid OpenCV camera-to-world pose; check units, handedness and matrix order")
    return c2w.float()
