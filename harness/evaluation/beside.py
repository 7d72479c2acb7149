"""Views beside an earlier one: what a recall probe looks at when it must not stand where the camera stood.

A pose that returns exactly is found by its distance alone, so it tells no selector from another; a view from half a metre aside does.
"""

import hashlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.trajectory import Trajectory
from harness.worlds.covisibility import CoVisibility
from harness.worlds.ground import Ground
from harness.worlds.poses import rotation

TRIES = 24  # places around an earlier one


@dataclass(frozen=True)
class Aside:
    """c2w: poses of the probe's video frames. metres, degrees: from the earlier ones. seen: the last chunk that shows this view."""

    c2w: Float[Tensor, "p 4 4"]
    metres: float
    degrees: float
    seen: int


def aside(path: Trajectory, ground: Ground, frames: range, middles: list[int], metres: float, degrees: float, share: float, key: str) -> Aside | None:
    """The first of `TRIES` places, drawn by `key`, from half to all of `metres` away and turned by half to all of `degrees`, where one
    may stand, and whose middle view shows at least this share of the target's and the other way round. None where there is none.

    frames: of the target. middles: the video frame in the middle of each chunk so far.
    """
    rng = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big"))
    rows, columns = path.images.shape[-2:]
    c2w, middle = path.c2w[list(frames)], len(frames) // 2
    for _ in range(TRIES):
        angle, far, turn, side = torch.rand(4, generator=rng).tolist()
        away, turned = metres * (1 + far) / 2, degrees * (1 + turn) / 2 * (1 if side < 0.5 else -1)
        heading = torch.tensor(360.0 * angle).deg2rad()
        moved = c2w.clone()
        moved[:, :3, 3] += away * torch.stack([heading.sin(), torch.zeros(()), heading.cos()])
        moved[:, :3, :3] = rotation(torch.tensor(turned), torch.zeros(())) @ moved[:, :3, :3]
        if not ground.free(moved[:, [0, 2], 3]).all():
            continue
        views = torch.cat([path.c2w[middles], c2w[middle : middle + 1], moved[middle : middle + 1]])
        truth = CoVisibility(ground.scene, views, path.intrinsics[:1].expand(len(views), 4), (rows, columns))
        shown = truth([len(views) - 1], range(len(views) - 1))[0]
        if shown[-1] >= share and (by := (shown[:-1] >= share).nonzero().flatten()).numel():
            return Aside(moved, away, abs(turned), int(by[-1]))
    return None
