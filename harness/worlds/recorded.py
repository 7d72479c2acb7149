"""`world=recorded`: camera paths from files, with an image to start from."""

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.types import Trajectory
from harness.worlds.base import World, given_frames
from harness.worlds.revisits import find_pairs

IMAGES = (".png", ".jpg", ".jpeg", ".webp")


class RecordedWorld(World):
    """One trajectory for each folder below `folder` (or `folder` itself) that holds poses.npy or one *_poses.npy.

    Files: poses (F,4,4, OpenCV camera-to-world), intrinsics likewise (F,4 or 1,4: fx fy cx cy in pixels of
    `intrinsics_size`), a first image (png, jpg, webp; named first.* if there are several), optional frames.npy
    (F,y,x,3 uint8: true views) and actions.npy (F,6). lead_in: hold the first pose for this many more frames, so that a
    backbone that starts from a whole chunk has one.
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
        self.fps, self.min_gap, self.overlap, self.chunk_px = fps, min_gap, overlap, chunk_px

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def trajectory(self, index: int) -> Trajectory:
        folder, lead = self.folders[index], self.lead_in
        c2w = check_poses(_array(folder, "poses"), folder)
        frames = len(c2w)
        intrinsics = torch.from_numpy(_array(folder, "intrinsics")).float()
        if intrinsics.ndim != 2 or intrinsics.shape[1] != 4 or len(intrinsics) not in (1, frames):
            raise ValueError(f"{folder}: intrinsics are {tuple(intrinsics.shape)}, expected ({frames}, 4) or (1, 4): fx fy cx cy")
        intrinsics = intrinsics.expand(frames, 4) * torch.tensor([self.scale[1], self.scale[0]] * 2)
        actions = torch.zeros(frames, 6)
        if (folder / "actions.npy").exists():
            actions = torch.from_numpy(np.load(folder / "actions.npy")).float()
            if actions.shape != (frames, 6):
                raise ValueError(f"{folder}: actions are {tuple(actions.shape)}, expected ({frames}, 6): W S A D yaw pitch")
        truth = self._truth(folder, frames)
        held = [torch.cat([x[:1].expand(lead, *x.shape[1:]), x]) for x in (c2w, intrinsics, actions)]
        keep = len(held[0]) // self.chunk_px * self.chunk_px
        if keep == 0:
            raise ValueError(f"{folder}: {frames} poses and lead_in={lead} make less than one chunk of {self.chunk_px} frames")
        c2w, intrinsics, actions = (x[:keep] for x in held)
        if truth is not None:
            truth = torch.cat([truth[:1].expand(lead, -1, -1, -1), truth])[:keep]
            images = truth[: given_frames(c2w, self.protocol, self.chunk_px)]
        else:
            images = self._first_image(folder).expand(1 + lead, -1, -1, -1)
        horizontal = 2 * torch.rad2deg(torch.atan(self.size[1] / 2 / intrinsics[0, 0])).item()
        pairs = find_pairs(c2w, horizontal, 1, self.min_gap, overlap=self.overlap)
        return Trajectory(self._names[index], c2w, intrinsics, actions, images, pairs, self.fps, reference=truth)

    def _truth(self, folder: Path, frames: int) -> Float[Tensor, "p 3 y x"] | None:
        if not (folder / "frames.npy").exists():
            return None
        array = np.load(folder / "frames.npy")
        if array.ndim != 4 or len(array) != frames or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(f"{folder}/frames.npy is {array.dtype} {array.shape}, expected uint8 ({frames}, y, x, 3)")
        return self._resize(torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)

    def _first_image(self, folder: Path) -> Float[Tensor, "1 3 y x"]:
        images = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGES]
        chosen = [p for p in images if p.stem == "first"] or images
        if len(chosen) != 1:
            raise FileNotFoundError(
                f"{folder}: found {len(images)} images ({', '.join(p.name for p in images)}); put one in it, or name the first frame first.png"
            )
        array = iio.imread(chosen[0])
        if array.ndim != 3:
            array = np.stack([array] * 3, -1)
        return self._resize(torch.from_numpy(array[..., :3].copy()).permute(2, 0, 1)[None].float() / 255)

    def _resize(self, images: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 3 y2 x2"]:
        if tuple(images.shape[-2:]) == self.size:
            return images
        return F.interpolate(images, self.size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


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
