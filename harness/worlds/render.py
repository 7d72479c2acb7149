"""Images of a scene."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harness.worlds.poses import rays
from harness.worlds.raycast import BLOCK, cast
from harness.worlds.scene import Scene


def render(
    scene: Scene, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], supersample: int = 2
) -> Float[Tensor, "f 3 y x"]:
    """Images in [0, 1] of a scene from camera poses, `supersample`^2 rays a pixel."""
    grid = (size[0] * supersample, size[1] * supersample)
    origin, direction = rays(c2w, intrinsics, grid, supersample)
    cells = scene.locate(origin)
    _, surface, u, v = cast(scene, origin, direction, cells, _in_view(scene, cells, c2w, intrinsics, size))
    colour = _sample(scene.textures, surface, u, v).transpose(1, 2).unflatten(-1, grid)
    return F.avg_pool2d(colour, supersample)


def depths(
    scene: Scene, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], scale: float | tuple[float, float] = 1.0
) -> Float[Tensor, "f y x"]:
    """Depth along the optical axis, in the poses' unit, at the centres of `size` pixels. scale: of these pixels against those of the intrinsics,
    or of rows and of columns."""
    origin, direction = rays(c2w, intrinsics, size, scale)
    return cast(scene, origin, direction).depth.unflatten(1, size)  # directions are 1 long along the axis


def _in_view(scene: Scene, cells: Tensor, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Bool[Tensor, "f k"] | None:
    """Which boxes and doors of the cell that it stands in a view may show: those whose corners are not all beyond one side of it."""
    parts = [c.parts for c in scene.cells]
    most = max(len(p) for p in parts)
    if not most:
        return None
    ends = torch.zeros(len(parts), most, 2, 3)
    for row, part in zip(ends, parts, strict=True):
        row[: len(part)] = torch.tensor(part).view(-1, 2, 3)
    ends = ends.to(c2w)[cells]  # f k 2 3
    x, y, z = (ends[:, :, i, a] for a, i in ((0, [0, 0, 0, 0, 1, 1, 1, 1]), (1, [0, 0, 1, 1, 0, 0, 1, 1]), (2, [0, 1, 0, 1, 0, 1, 0, 1])))
    corners = (torch.stack([x, y, z], -1).flatten(1, 2) - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]
    x, y, z = corners.unflatten(1, (most, 8)).unbind(-1)
    fx, fy, cx, cy = intrinsics.to(c2w)[:, :, None, None].unbind(1)
    beyond = (z <= 0, x * fx < -cx * z, x * fx > (size[1] - cx) * z, y * fy < -cy * z, y * fy > (size[0] - cy) * z)
    return ~torch.stack([b.all(-1) for b in beyond]).any(0)


def _sample(textures: Tensor, surface: Tensor, u: Tensor, v: Tensor) -> Float[Tensor, "f n 3"]:
    """Bilinear look-up of texture `surface` at (u, v) in [0, 1]."""
    size = textures.shape[1]
    flat = textures.view(-1, 3)
    colour = torch.empty(*u.shape, 3, device=u.device)
    parts = (x.view(-1).split(BLOCK) for x in (surface, u, v))
    for out, surface_, u_, v_ in zip(colour.view(-1, 3).split(BLOCK), *parts, strict=True):
        x, y = ((c * size - 0.5).clamp(0, size - 1.001) for c in (u_, v_))
        x0, y0 = x.long(), y.long()
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        at = (surface_ * size + y0) * size + x0
        corner = [flat.index_select(0, at + more) for more in (0, 1, size, size + 1)]
        torch.lerp(torch.lerp(corner[0], corner[1], fx), torch.lerp(corner[2], corner[3], fx), fy, out=out)
    return colour
