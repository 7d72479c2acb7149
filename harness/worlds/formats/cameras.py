"""What a file of camera poses says, and its way to OpenCV camera-to-world matrices."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.worlds.poses import pinhole

CONVENTIONS = ("opencv", "opengl")  # the camera's axes: x right, y down, z forward; or x right, y up, z backward
DIRECTIONS = ("c2w", "w2c")
SHARES = (1, 1)  # the "size" of a picture whose intrinsics are shares of its width and height
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
RIGID = 2e-3  # largest deviation of R R^T from the identity: float16 rounds entries by 5e-4
SNAP = 30.0  # degrees; worlds have their height along an axis, and a camera looks down a little


@dataclass(frozen=True)
class Cameras:
    """As a file has them. convention: the camera's axes, of `CONVENTIONS`; direction: of `DIRECTIONS`. intrinsics: fx fy cx cy in pixels of a
    picture of `size` (rows, columns), one row or one a pose. times: seconds. pictures: files, one a pose, relative to the folder.
    upright: whether the world's y axis is known to point down. fov: horizontal field of view in degrees, where that is all there is of the intrinsics."""

    file: Path
    poses: Float[np.ndarray, "f 4 4"]
    convention: str = "opencv"
    direction: str = "c2w"
    intrinsics: Float[np.ndarray, "n 4"] | None = None
    size: tuple[int, int] | None = None
    times: Float[np.ndarray, "f"] | None = None
    pictures: tuple[str, ...] = ()
    upright: bool = False
    fov: float | None = None

    def opencv(self, convention: str | None = None, direction: str | None = None) -> Float[Tensor, "f 4 4"]:
        """OpenCV camera-to-world matrices, y down. convention, direction: what the file holds, where that is not what its format says.

        Raises ValueError that names the file and the frame.
        """
        for name, value, known in (("convention", convention, CONVENTIONS), ("direction", direction, DIRECTIONS)):
            if value is not None and value not in known:
                raise ValueError(f"world.{name}={value}; use {' or '.join(known)}, or null for what the file's format says")
        if direction is None and self.direction not in DIRECTIONS:
            raise ValueError(f"{self.file}: {self.direction}; say world.direction=c2w or w2c")
        poses = check_poses(self.poses, self.file).double().numpy()
        plain = self.upright and convention in (None, "opencv") and direction in (None, "c2w")
        if plain:
            return torch.from_numpy(poses).float()
        if (direction or self.direction) == "w2c":
            poses = np.linalg.inv(poses)
        if (convention or self.convention) == "opengl":
            poses = poses @ OPENGL
        return torch.from_numpy(levelled(poses)).float()

    def lens(self, frames: int, size: tuple[int, int], scaled: tuple[int, int]) -> Float[Tensor, "n 4"] | None:
        """fx fy cx cy in pixels of a picture of `scaled` (rows, columns), one row or one a frame; None where the file tells none. size: rows and columns
        of the picture that pixels are of, where the file does not tell. Raises ValueError as `check_intrinsics` does."""
        if self.fov is not None:
            return pinhole(self.fov, size, 1) * torch.tensor([scaled[1] / size[1], scaled[0] / size[0]] * 2)
        return None if self.intrinsics is None else check_intrinsics(self.intrinsics, self.file, frames, self.size or size, scaled)


def levelled(poses: Float[np.ndarray, "f 4 4"]) -> Float[np.ndarray, "f 4 4"]:
    """Poses in a world turned so that its y axis points down, as the cameras' mean y axis does; where that is near an axis, by right angles."""
    down = poses[:, :3, 1].mean(0)
    if np.linalg.norm(down) < 0.2:  # cameras roll all around: nobody knows where down is
        return poses
    down /= np.linalg.norm(down)
    axis = np.eye(3)[np.abs(down).argmax()] * np.sign(down[np.abs(down).argmax()])
    down = axis if axis @ down > np.cos(np.radians(SNAP)) else down
    if np.allclose(down, [0, 1, 0]):
        return poses
    turn = np.diag([1.0, -1.0, -1.0, 1.0])
    if down[1] > -1 + 1e-9:  # the smallest rotation that takes `down` there
        x, y, z = np.cross(down, [0.0, 1.0, 0.0])
        skew = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        turn = np.eye(4)
        turn[:3, :3] += skew + skew @ skew / (1 + down[1])
    return turn @ poses


def check_poses(array: np.ndarray, origin: Path | str) -> Float[Tensor, "f 4 4"]:
    """Rigid matrices as float32; (F, 3, 4) get their last row. Raises ValueError, with the frame, for a wrong shape, NaN, rotations that are none
    and matrices that are transposed."""
    poses = torch.from_numpy(np.asarray(array, dtype=np.float64))
    if poses.ndim == 2 and poses.shape[1] in (12, 16):
        poses = poses.unflatten(1, (-1, 4))
    if poses.ndim == 3 and poses.shape[1:] == (3, 4):
        poses = torch.cat([poses, torch.tensor([[[0.0, 0, 0, 1]]], dtype=poses.dtype).expand(len(poses), 1, 4)], 1)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not len(poses):
        raise ValueError(f"{origin}: poses are {tuple(poses.shape)}, expected (F, 4, 4) camera matrices, or (F, 3, 4) without their last row")
    if not torch.isfinite(poses).all():
        raise ValueError(f"{origin}: poses hold NaN or infinity at frame {_first(~torch.isfinite(poses))}")
    r = poses[:, :3, :3]
    error = (r @ r.transpose(1, 2) - torch.eye(3, dtype=r.dtype)).abs().amax((1, 2))
    if (off := error > RIGID).any() or (torch.linalg.det(r) < 0).any():
        frame = int(off.nonzero()[0]) if off.any() else int((torch.linalg.det(r) < 0).nonzero()[0])
        raise ValueError(f"{origin}: frame {frame} is no rigid camera pose (R R^T is off by {error[frame]:.2g}); check scale, handedness and matrix order")
    if (wrong := (poses[:, 3] - torch.tensor([0, 0, 0, 1.0])).abs() > 1e-3).any():
        frame = _first(wrong)
        turned = "; the matrices are transposed (row vectors): save poses.transpose(0, 2, 1)" if poses[:, 3, :3].any() and not poses[:, :3, 3].any() else ""
        raise ValueError(f"{origin}: the last row of frame {frame} is {poses[frame, 3].tolist()}, expected 0 0 0 1{turned}")
    return poses.float()


def check_intrinsics(array: np.ndarray, origin: Path | str, frames: int, size: tuple[int, int], scaled: tuple[int, int]) -> Float[Tensor, "n 4"]:
    """fx fy cx cy in pixels of a picture of `scaled` (rows, columns), one row or one a frame.

    array: (4,), (1, 4), (F, 4), (3, 3) or (F, 3, 3); in pixels of a picture of `size` (rows, columns), or shares already (RealEstate10K), which no
    camera's pixels can be. Raises ValueError that names the frame, for what no camera has.
    """
    values = np.asarray(array, dtype=np.float64)
    if values.shape[-2:] == (3, 3):
        values = np.stack([values[..., 0, 0], values[..., 1, 1], values[..., 0, 2], values[..., 1, 2]], -1)
    values = np.atleast_2d(values)
    if values.ndim != 2 or values.shape[1] != 4 or len(values) not in (1, frames):
        raise ValueError(f"{origin}: intrinsics are {tuple(np.shape(array))}, expected ({frames}, 4) or (1, 4): fx fy cx cy, or matrices (3, 3)")
    if not np.isfinite(values).all():
        raise ValueError(f"{origin}: intrinsics hold NaN or infinity at frame {_first(torch.from_numpy(~np.isfinite(values)))}")
    if (values <= 0).any():
        frame = _first(torch.from_numpy(values <= 0))
        raise ValueError(f"{origin}: intrinsics of frame {frame} are {values[frame].tolist()}; fx fy cx cy must be above 0")
    size = SHARES if values[:, 2:].max() <= 1 else size  # a principal point within the first pixel is none
    shares = values / np.array([size[1], size[0]] * 2)
    if (off := shares[:, 2:] >= 1).any():
        frame = _first(torch.from_numpy(off))
        fits = [round(2 * values[frame, 3]), round(2 * values[frame, 2])]
        raise ValueError(
            f"{origin}: the principal point of frame {frame} ({values[frame, 2]:g}, {values[frame, 3]:g}) lies outside a picture {size[1]} wide and "
            f"{size[0]} high; "
            f"world.intrinsics_size=[rows,columns] is the size of the picture that the intrinsics are of, perhaps [{fits[0]},{fits[1]}]"
        )
    fov = 2 * np.degrees(np.arctan(0.5 / shares[:, :2]))
    if (off := (fov < 2) | (fov > 175)).any():
        frame = _first(torch.from_numpy(off))
        raise ValueError(
            f"{origin}: frame {frame} would have a field of view of {fov[frame, 0]:.1f} x {fov[frame, 1]:.1f} degrees; are fx and fy in pixels of "
            f"world.intrinsics_size=[{size[0]},{size[1]}]?"
        )
    return torch.from_numpy(values).float() * torch.tensor([scaled[1] / size[1], scaled[0] / size[0]] * 2)


def _first(wrong: Tensor) -> int:
    """The first frame with anything wrong."""
    return int(wrong.flatten(1).any(1).nonzero()[0])
