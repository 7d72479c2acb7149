"""Whether the camera is back at a view that it has seen: near enough for the eye, after it was elsewhere."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.worlds.poses import angle
from harness.worlds.revisits import DEGREES, METRES

NEAR = (0.3, 12.0)  # metres and degrees that a view may differ and still be shown beside an earlier one
EXACT = (METRES, DEGREES)  # where two views are one
AWAY = 0.75  # of the field of view turned away, or 1 m walked away: then a view was left


@dataclass(frozen=True)
class Visit:
    """frame: the earliest video frame with the nearest view. metres, degrees: how far the two views differ."""

    frame: int
    metres: float
    degrees: float

    @property
    def exact(self) -> bool:
        return self.metres <= EXACT[0] and self.degrees <= EXACT[1]


def first_visit(c2w: Float[Tensor, "p 4 4"], fov: float) -> Visit | None:
    """The earliest view like the last one that the camera had left in between; None if there is none. fov: degrees.

    A view that is the same comes before one that is only near.
    """
    metres = (c2w[:, :3, 3] - c2w[-1, :3, 3]).norm(dim=-1)
    degrees = angle(c2w[:, :3, :3], c2w[-1, :3, :3])
    left = torch.nonzero((degrees >= AWAY * fov) | (metres >= 1.0))
    if not len(left):
        return None
    before = int(left[-1])  # the last time that the camera was elsewhere
    for limit in (EXACT, NEAR):
        seen = torch.nonzero((metres[:before] <= limit[0]) & (degrees[:before] <= limit[1]))
        if len(seen):
            unlike = metres[seen] / NEAR[0] + degrees[seen] / NEAR[1]
            best = int(seen[0]) if limit is EXACT else int(seen[unlike.argmin()])
            return Visit(best, metres[best].item(), degrees[best].item())
    return None
