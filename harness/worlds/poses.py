"""Camera geometry: actions to poses, poses to rays, and the distances between views.

Conventions: OpenCV camera-to-world matrices (x right, y down, z forward), metres and degrees. Everything here is a pure
function of tensors, so that policies, worlds and backbones agree on what a pose is without importing one another.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

ACTIONS = ("W", "S", "A", "D", "yaw", "pitch")  # forward, back, left, right as 0/1 (or fractions); degrees, right and up positive


def rotation(yaw: Float[Tensor, "*n"], pitch: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3 3"]:
    """Rotation of a level camera that is turned right by `yaw` and then looks up by `pitch` (both in degrees)."""
    y, p = torch.deg2rad(yaw), torch.deg2rad(pitch)
    zero, one = torch.zeros_like(y), torch.ones_like(y)
    turn = torch.stack([y.cos(), zero, y.sin(), zero, one, zero, -y.sin(), zero, y.cos()], -1).unflatten(-1, (3, 3))
    tilt = torch.stack([one, zero, zero, zero, p.cos(), -p.sin(), zero, p.sin(), p.cos()], -1).unflatten(-1, (3, 3))
    return turn @ tilt


def integrate(actions: Float[Tensor, "f 6"], step: float) -> Float[Tensor, "f 4 4"]:
    """Integrate actions (columns `ACTIONS`) into camera-to-world poses.

    Action `i` leads from frame `i-1` to frame `i`; frame 0 is the start pose (identity) whatever `actions[0]` says, so an
    out-and-back closes exactly. A step of `step` metres is taken along the heading before the turn of the same frame.
    Sums are taken in float64 and headings are wrapped, so that a closed path closes to less than 1e-6.
    """
    a = actions.double().clone()
    a[0] = 0
    yaw, pitch = a[:, 4].cumsum(0), a[:, 5].cumsum(0)
    heading = torch.deg2rad(torch.cat([yaw.new_zeros(1), yaw[:-1]]))
    forward = torch.stack([heading.sin(), torch.zeros_like(heading), heading.cos()], -1)
    right = torch.stack([heading.cos(), torch.zeros_like(heading), -heading.sin()], -1)
    moved = forward * (a[:, 0] - a[:, 1])[:, None] + right * (a[:, 3] - a[:, 2])[:, None]
    c2w = torch.eye(4, dtype=torch.float64).repeat(len(a), 1, 1)
    c2w[:, :3, :3] = rotation(torch.remainder(yaw, 360.0), pitch)
    c2w[:, :3, 3] = moved.cumsum(0) * step
    return c2w.float()


def onward(pose: Float[Tensor, "4 4"], actions: Float[Tensor, "f 6"], step: float) -> Float[Tensor, "f 4 4"]:
    """The poses that actions lead to from `pose`, one each; the first action already moves. step: metres a frame."""
    return pose @ integrate(torch.cat([actions.new_zeros(1, 6), actions]), step)[1:]


def differentiate(c2w: Float[Tensor, "f 4 4"], step: float) -> Float[Tensor, "f 6"]:
    """Actions (columns `ACTIONS`) that lead along a path: the inverse of `integrate`, wherever the path starts.

    A move is a fraction of `step` metres along and across the heading of the frame before. Heights and roll are left out:
    no action makes them. For pitches within 90 degrees. Raises ValueError for a step that is not positive.
    """
    if step <= 0:
        raise ValueError(f"a step of {step} metres a frame gives no keys; use one above 0")
    r, moved = c2w[:, :3, :3].double(), c2w[:, :3, 3].double().diff(dim=0)
    yaw = torch.atan2(r[:, 0, 2], r[:, 2, 2])
    pitch = torch.atan2(-r[:, 1, 2], torch.hypot(r[:, 0, 2], r[:, 2, 2]))
    sin, cos = yaw[:-1].sin(), yaw[:-1].cos()
    forward, right = moved[:, 0] * sin + moved[:, 2] * cos, moved[:, 0] * cos - moved[:, 2] * sin
    actions = torch.zeros(len(c2w), 6)
    actions[1:, :4] = (torch.stack([forward, -forward, -right, right], -1).clamp(min=0) / step).float()
    turned = torch.rad2deg(torch.stack([yaw, pitch], -1).diff(dim=0))
    actions[1:, 4:] = (torch.remainder(turned + 180, 360) - 180).float()
    return actions


def resample(c2w: Float[Tensor, "f 4 4"], at: Float[Tensor, "n"]) -> Float[Tensor, "n 4 4"]:
    """Poses at fractional indices of a path: positions on the straight line, rotations on the shorter arc at even speed.

    At whole indices they are the path's own, bit by bit. Raises ValueError for indices outside the path.
    """
    from scipy.spatial.transform import Rotation, Slerp  # slow to import, and only paths of another frame rate need it

    at, last = at.double(), len(c2w) - 1
    if len(at) and (at.min() < 0 or at.max() > last):
        raise ValueError(f"indices {at.min():g} to {at.max():g} leave a path of {len(c2w)} poses; use 0 to {last}")
    if last == 0:
        return c2w[at.long()]
    low = at.floor().clamp(max=last - 1).long()
    share = (at - low)[:, None]
    out = c2w.double()[low]
    out[:, :3, 3] = torch.lerp(c2w[low, :3, 3].double(), c2w[low + 1, :3, 3].double(), share)
    rotations = Slerp(range(len(c2w)), Rotation.from_matrix(c2w[:, :3, :3].double().cpu().numpy()))(at.cpu().numpy())
    out[:, :3, :3] = torch.from_numpy(rotations.as_matrix()).to(out)
    whole = (at == at.round())[:, None, None]
    return torch.where(whole, c2w[at.round().long()], out.to(c2w.dtype))


def relative(c2w: Float[Tensor, "f 4 4"], origin: Float[Tensor, "4 4"]) -> Float[Tensor, "f 4 4"]:
    """Poses expressed in the frame of `origin` (inverse taken in float64: rigid, so the transpose)."""
    r, t = origin[:3, :3].double(), origin[:3, 3].double()
    out = c2w.double().clone()
    out[:, :3, :3] = r.T @ out[:, :3, :3]
    out[:, :3, 3] = (out[:, :3, 3] - t) @ r
    return out.to(c2w.dtype)


def rays(
    c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], scale: float | tuple[float, float] = 1.0
) -> tuple[Float[Tensor, "f 3"], Float[Tensor, "f n 3"]]:
    """Origins and unnormalised world directions of the rays through the centres of a `size` = (rows, columns) grid.

    `intrinsics` is (fx, fy, cx, cy) in pixels of an image `scale` times smaller than the grid: `scale=2` supersamples
    twice, `scale=1/8` gives one ray per 8x8 patch. Two scales are those of rows and columns.
    """
    down, across = scale if isinstance(scale, tuple) else (scale, scale)
    rows, cols = (torch.arange(n, device=c2w.device, dtype=torch.float32) + 0.5 for n in size)
    fx, fy, cx, cy = intrinsics.to(c2w).unbind(-1)
    fx, cx, fy, cy = fx * across, cx * across, fy * down, cy * down
    x = ((cols - cx[:, None]) / fx[:, None])[:, None, :].expand(-1, size[0], -1)
    y = ((rows - cy[:, None]) / fy[:, None])[:, :, None].expand(-1, -1, size[1])
    camera = torch.stack([x, y, torch.ones_like(x)], -1).flatten(1, 2)
    return c2w[:, :3, 3], camera @ c2w[:, :3, :3].transpose(1, 2)


def pinhole(fov: float, size: tuple[int, int], frames: int) -> Float[Tensor, "f 4"]:
    """Intrinsics (fx, fy, cx, cy) of a camera with a horizontal field of view of `fov` degrees and square pixels."""
    focal = size[1] / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, focal, size[1] / 2, size[0] / 2]]).repeat(frames, 1)


def angle(a: Float[Tensor, "*n 3 3"], b: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n"]:
    """Geodesic angle between rotations, in degrees. From the chord, which keeps its precision near 0 where acos loses it."""
    return _degrees((a - b).flatten(-2).norm(dim=-1))


def distances(a: Float[Tensor, "n 4 4"], b: Float[Tensor, "m 4 4"]) -> tuple[Float[Tensor, "n m"], Float[Tensor, "n m"]]:
    """Metres and degrees from every pose of `a` to every one of `b`, as `angle` has them."""
    exact = "donot_use_mm_for_euclid_dist"  # products of matrices put a pose millimetres from itself
    metres, chord = (torch.cdist(x.flatten(1), y.flatten(1), compute_mode=exact) for x, y in ((a[:, :3, 3], b[:, :3, 3]), (a[:, :3, :3], b[:, :3, :3])))
    return metres, _degrees(chord)


def _degrees(chord: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """chord: the length of the difference of two rotations."""
    return torch.rad2deg(2 * torch.asin((chord / math.sqrt(8.0)).clamp(max=1.0)))


def steps(c2w: Float[Tensor, "f 4 4"]) -> Float[Tensor, "f 4 4"]:
    """Every pose in the frame of the one before it; the first is the identity."""
    before = torch.cat([c2w[:1], c2w[:-1]]).double()
    r, out = before[:, :3, :3].transpose(1, 2), c2w.double().clone()
    out[:, :3, 3] = (r @ (out[:, :3, 3] - before[:, :3, 3])[..., None])[..., 0]
    out[:, :3, :3] = r @ out[:, :3, :3]
    return out.to(c2w.dtype)


def top_view(c2w: Float[Tensor, "p 4 4"]) -> list[list[float]]:
    """The camera path seen from above, for maps: x and z in the poses' unit, heading in degrees (0 along +z, 90 along +x)."""
    heading = torch.rad2deg(torch.atan2(c2w[:, 0, 2], c2w[:, 2, 2]))
    rows = torch.stack([c2w[:, 0, 3], c2w[:, 2, 3], heading], 1).tolist()
    return [[round(v, 3) for v in row] for row in rows]
