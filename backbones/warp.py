"""Images seen from elsewhere: pixels with depth become points, and points an image."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harness.worlds.poses import rays

AGREE = 1.05  # points of a pixel that are at most this much farther than the nearest one are averaged with it


def points_of(depth: Float[Tensor, "f y x"], c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Float[Tensor, "f n 3"]:
    """World coordinates of the centres of pixels. depth: along the optical axis, in metres; intrinsics: in pixels of the depth map."""
    origin, direction = rays(c2w, intrinsics, (depth.shape[1], depth.shape[2]))
    return origin[:, None] + depth.flatten(1)[..., None] * direction


def project(
    points: Float[Tensor, "n 3"], c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]
) -> tuple[Float[Tensor, "f n"], Float[Tensor, "f n"], Float[Tensor, "f n"]]:
    """Column, row (in pixels; the centre of the first pixel is 0.5) and depth of points in each view. Depth is below 0 behind the camera."""
    x, y, z = ((points[None] - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]).unbind(-1)
    fx, fy, cx, cy = intrinsics[..., None].unbind(1)
    ahead = z.clamp(min=1e-6)
    return x / ahead * fx + cx, y / ahead * fy + cy, z


def splat(
    points: Float[Tensor, "n 3"], colours: Float[Tensor, "n 3"], c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]
) -> tuple[Float[Tensor, "f 3 y x"], Bool[Tensor, "f y x"]]:
    """Images of points, and which of their pixels any point fell into; the others are grey. Of the points of a pixel the nearest are
    averaged, so that what lies behind does not show; points farther away shine through where the nearer ones are too few to close a surface."""
    column, row, z = project(points, c2w, intrinsics)
    rows, columns = size
    inside = (z > 0.05) & (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    view, point = inside.nonzero().unbind(1)
    at = (view * rows + row[inside].long()) * columns + column[inside].long()
    nearest = z.new_full((len(c2w) * rows * columns,), torch.inf).scatter_reduce_(0, at, z[inside], "amin")
    shown = z[inside] <= AGREE * nearest[at]
    at, point = at[shown], point[shown]
    count = torch.bincount(at, minlength=len(nearest)).to(colours)
    total = colours.new_zeros(len(nearest), 3).index_add_(0, at, colours[point])
    covered = count > 0
    image = torch.where(covered[:, None], total / count.clamp(min=1)[:, None], 0.5)
    return image.view(len(c2w), rows, columns, 3).permute(0, 3, 1, 2), covered.view(len(c2w), rows, columns)


def enlarged(depth: Float[Tensor, "f y x"], size: tuple[int, int]) -> Float[Tensor, "f y x"]:
    """A depth map of another size."""
    return depth if depth.shape[1:] == size else F.interpolate(depth[:, None], size, mode="bilinear", align_corners=False)[:, 0]
