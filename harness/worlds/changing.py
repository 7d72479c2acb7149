"""A room in which surfaces become other ones while nobody looks: who remembers what was seen first, and not what was seen last, is wrong there.

On 4 paths of `world=rooms_changing world.split=validation`, `policy=places` recalls the views that changed with 25.28 dB by its first sightings
(`policy.keep=first`) and with 29.38 dB by its newest (`policy.keep=newest`).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.worlds.poses import rays
from harness.worlds.revisits import Returns, Tolerance, outbound
from harness.worlds.rooms import UPRIGHT, Room, cast, painted, render

SAMPLES = 32  # rows of rays through a view: what it shows of a surface, down to two pixels of 64
SHOWN = 0.1  # of a view's rays that meet what has changed, if the view is to count
LATER = 10**9  # added to a room's seed, beyond the seeds of every split: other surfaces


@dataclass(frozen=True)
class Change:
    """From frame `at` on the room is `after`. surfaces: which of its textures are others."""

    at: int
    after: Room
    surfaces: tuple[int, ...]

    def render(self, before: Room, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> Float[Tensor, "f 3 y x"]:
        """Every frame as the room is at its time."""
        parts = ((before, slice(None, self.at)), (self.after, slice(self.at, None)))
        return torch.cat([render(room, c2w[some], intrinsics[some], size) for room, some in parts])

    def given(self, c2w: Float[Tensor, "f 4 4"], chunk_px: int) -> int:
        """Frames, in whole chunks, up to where, after the change, the camera first comes back to a pose that it had left: all has been seen once more."""
        return -(-(self.at + outbound(c2w[self.at :])) // chunk_px) * chunk_px

    def returns(self, tolerance: Tolerance, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int], fov: float) -> Returns:
        """Pairs of views that show what has changed, the first visit after it did too: what is recalled shall be what is there."""
        pairs, miss = tolerance.returns(c2w[self.at :], fov)
        new = torch.isin(surfaces(self.after, c2w, intrinsics, size), torch.tensor(self.surfaces)).float().mean(1) >= SHOWN
        moved = (replace(p, first=p.first + self.at, revisit=p.revisit + self.at, unrelated=p.unrelated + self.at) for p in pairs)
        found = tuple(p for p in moved if new[p.first])
        miss = miss or ("" if found else "no view that comes back shows what has changed")
        return Returns(found, miss and f"after the room has changed (frame {self.at}): {miss}; walk the path again (world.repeat)")


def change(room: Room, seed: int, share: float, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> Change:
    """The room's change along a path: where it first comes back to a pose that it had left, `share` of the walls and pillars that it has shown
    and that are out of sight there become others, one at least. Geometry stays.

    Raises ValueError for a path along which nothing that was seen is out of sight then.
    """
    at = outbound(c2w)
    if at == len(c2w):
        raise ValueError("world.changes: the path never comes back to a pose that it had left, so nothing can change in between; use other world.specs")
    shown = surfaces(room, c2w[: at + 1], intrinsics[: at + 1], size)
    seen, here = (set(views.unique().tolist()) for views in (shown[:at], shown[at - 1 :]))
    hidden = sorted(i for i in seen - here if i in UPRIGHT or i >= 6)
    if not hidden:
        raise ValueError(f"world.changes: all that was seen is in sight at frame {at}, where the path turns back; use world.specs that turn further")
    g = torch.Generator().manual_seed(seed + LATER)
    order = [hidden[i] for i in torch.randperm(len(hidden), generator=g).tolist()]
    chosen = tuple(sorted(order[: max(1, round(share * len(hidden)))]))
    textures = room.textures.clone()
    for i in chosen:
        textures[i] = painted(g)
    return Change(at, replace(room, textures=textures), chosen)


def surfaces(room: Room, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> Int[Tensor, "f n"]:
    """The texture that each ray of the views meets."""
    rows, columns = SAMPLES, round(SAMPLES * size[1] / size[0])
    origin, direction = rays(c2w, intrinsics, (rows, columns), rows / size[0])
    return cast(room, origin, direction).surface
