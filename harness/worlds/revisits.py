"""Which frames see the same view again: found from poses alone, exact after the rounding to latent frames."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harness.trajectory import RevisitPair
from harness.worlds.frusta import FrustumOverlap
from harness.worlds.poses import distances

Shares = Callable[[Sequence[int], Sequence[int]], Float[Tensor, "n m"]]  # of views (rows) that others (columns) show too

ASKED, MANY = 8, 512  # views at a time, of which the truth is asked: rays are cast for true co-visibility, frusta cost little
METRES, DEGREES = 1e-3, 0.05  # within which poses of exact paths are the same
LEFT = 3.0  # tolerances that a recorded camera must be away to have left a pose: less may be its trembling
FAR = 10.0  # position tolerances that one sees at least, where a path hardly moves
NEAR = 0.25  # of the field of view, and of what a path reaches: farther off is another view, and no near miss


def find_pairs(
    c2w: Float[Tensor, "p 4 4"],
    fov: float,
    stride_px: int = 1,
    min_gap: int = 9,
    metres: float = METRES,
    degrees: float = DEGREES,
    overlap: float = 0.25,
    truth: Shares | None = None,
    nearest: bool = False,
    asked: int = ASKED,
) -> tuple[RevisitPair, ...]:
    """The first visit of every view against each later one.

    A frame revisits the earliest frame whose pose is within `metres` and `degrees`, if at least `min_gap` video frames
    lie between and the view was left: at some frame between, less than `overlap` of it was shared, by the angle between the
    views and the field of view `fov` (degrees), or, where there is a `truth`, by true co-visibility. Poses are taken at latent
    frames (every `stride_px`-th video frame): a pair is exact for what the model was told, and both frames have the same phase
    within their latent frame. nearest: of the frames of the first visit take the one whose pose is nearest, for poses that never
    repeat exactly. asked: how many views the truth is asked for at a time.
    """
    poses = c2w[::stride_px]
    far, turned = distances(poses, poses)
    same = (far <= metres) & (turned <= degrees)
    shared = (1 - turned / fov).clamp(min=0)
    unlike = turned.round(decimals=2) * 1e3 + far
    left: dict[int, int] = {}  # by first visit: a frame at which its view was left
    pairs = []
    for j in range(len(poses)):
        i = int(torch.nonzero(same[j])[0])
        if nearest:
            away = (far[j, i : j + 1] > LEFT * metres) | (turned[j, i : j + 1] > LEFT * degrees)
            if not away.any():
                continue
            visit = slice(i, i + int(away.nonzero()[0]))
            i += int(torch.maximum(far[j, visit] / metres, turned[j, visit] / degrees).argmin())
        if (j - i) * stride_px < min_gap:
            continue
        if i not in left:
            between = i + unlike[i, i : j + 1].argsort(descending=True)  # the truth is asked for those first that are likely to be out of sight
            for some in [between] if truth is None else between.split(asked):
                share = shared[i, some] if truth is None else truth([i * stride_px], (some * stride_px).tolist())[0]
                if (share < overlap).any():
                    left[i] = int(some[share < overlap][0])
                    break
        if i in left:
            other = int(unlike[i].argmax())
            pairs.append(RevisitPair(i * stride_px, j * stride_px, other * stride_px, far[i, j].item(), turned[i, j].item()))
    return tuple(pairs)


class Returns(NamedTuple):
    """Revisit pairs and, where there are none, why: the nearest miss and the setting that decides."""

    pairs: tuple[RevisitPair, ...]
    miss: str


@dataclass(frozen=True)
class Tolerance:
    """When a view counts as seen again. min_gap: video frames between, at least. overlap: share of it that must have been out of sight, see `find_pairs`.

    metres, degrees: how far the pose of a revisit may be off; a recorded camera never stands at one place twice. depth: metres to what is
    seen, so that walking leaves a view as turning does (`FrustumOverlap`); None counts turns alone. recorded: whether the path may tremble.
    """

    min_gap: int
    overlap: float
    metres: float = METRES
    degrees: float = DEGREES
    depth: float | None = None
    recorded: bool = False

    def __post_init__(self) -> None:
        if self.metres <= 0 or self.degrees <= 0:
            raise ValueError(f"world.metres_tolerance={self.metres}, world.degrees_tolerance={self.degrees}; use numbers above 0")
        if self.depth is not None and self.depth <= 0:
            raise ValueError(f"world.depth={self.depth}; give the metres to what is seen, above 0, or null")

    def reaching(self, metres: float) -> "Tolerance":
        """With the depth that a path reaches, where none is given; `FAR` position tolerances at least, since standing still is trembling too."""
        return self if self.depth is not None else replace(self, depth=max(metres, FAR * self.metres))

    def returns(self, c2w: Float[Tensor, "p 4 4"], fov: float, stride_px: int = 1, truth: Shares | None = None, aspect: float = 1.0) -> Returns:
        """The pairs of a path. fov: degrees, of the picture's width; aspect: its height over its width."""
        asked = ASKED
        if truth is None and self.depth is not None:
            truth, asked = FrustumOverlap(c2w, fov, aspect, self.depth), MANY
        pairs = find_pairs(c2w, fov, stride_px, self.min_gap, self.metres, self.degrees, self.overlap, truth, self.recorded, asked)
        return Returns(pairs, "" if pairs else self._miss(c2w, fov, stride_px))

    def outbound(self, c2w: Float[Tensor, "p 4 4"]) -> int:
        """Number of frames before the camera first comes back to a pose that it had left: the first leg."""
        return trembling_outbound(c2w, self.metres, self.degrees) if self.recorded else outbound(c2w, self.metres, self.degrees)

    def _miss(self, c2w: Float[Tensor, "p 4 4"], fov: float, stride_px: int) -> str:
        far, turned = distances(c2w[::stride_px], c2w[::stride_px])
        late = torch.ones_like(far).triu(-(-self.min_gap // stride_px)).bool()
        if not late.any():
            return f"the path has {len(c2w)} video frames, and a revisit comes {self.min_gap} after the first visit (world.min_gap) at the earliest"
        excess = torch.where(late, torch.maximum(far / self.metres, turned / self.degrees), torch.inf)
        most_turned, most_walked = (x.triu().cummax(1).values for x in (turned, far))  # between frames i and j, from i
        left = most_turned > fov * (1 - self.overlap)
        if self.depth is not None:
            left |= most_walked > self.depth / 2
        near = late & left & (turned <= fov * NEAR) & (far <= max(far.max().item() * NEAR, FAR * self.metres))
        if near.any():
            i, j = divmod(int(torch.where(near, excess, torch.inf).argmin()), len(far))
            name, limit = ("degrees", self.degrees) if turned[i, j] / self.degrees >= far[i, j] / self.metres else ("metres", self.metres)
            gap = f"nearest miss {turned[i, j]:.2g} degrees and {far[i, j]:.2g} metres at frames {i * stride_px}/{j * stride_px}"
            return f"{gap}, see world.{name}_tolerance ({limit:g})" if self.recorded else f"{gap}: the path does not repeat exactly"
        i, j = divmod(int(torch.where(excess <= 1, most_turned, -1.0).argmax() if (excess <= 1).any() else excess.argmin()), len(far))
        stays = (
            f"the camera turns by {most_turned[i, j]:.3g} degrees and walks {most_walked[i, j]:.2g} metres between frames {i * stride_px} and {j * stride_px}"
        )
        more = "" if self.depth is not None or most_walked[i, j] <= self.metres else "; world.depth=METRES counts walks too, where the world has it"
        return (
            f"no view is left and seen again: {stays}, {fov * (1 - self.overlap):.3g} degrees leave a view of {fov:.3g} (world.overlap={self.overlap:g}){more}"
        )


def outbound(c2w: Float[Tensor, "p 4 4"], metres: float = METRES, degrees: float = DEGREES) -> int:
    """Number of frames before the camera first comes back to a pose that it had left: the first leg."""
    far, turned = distances(c2w, c2w)
    same = (far <= metres) & (turned <= degrees)
    for j in range(2, len(c2w)):
        earlier = torch.nonzero(same[j, :j])
        if len(earlier) and not same[j, int(earlier[-1]) : j].all():
            return j
    return len(c2w)


def trembling_outbound(c2w: Float[Tensor, "p 4 4"], metres: float, degrees: float) -> int:
    """`outbound` of a recorded path, whose trembling is no way out and back: the camera has to have been `LEFT` tolerances away. From where that is
    sure, the way back is followed to where it began: to the farthest place, if it is the way out again, and not at all around a loop."""
    far, turned = distances(c2w, c2w)
    same = (far <= metres) & (turned <= degrees)
    away = (far > LEFT * metres) | (turned > LEFT * degrees)
    for j in range(2, len(c2w)):
        earlier = torch.nonzero(same[j, :j])
        if len(earlier) and away[j, (i := int(earlier[0])) : j].any():
            turn = i + int((far[j, i:j] / metres + turned[j, i:j] / degrees).argmax())
            there = turn + int(same[turn, turn:j].nonzero()[-1])  # the camera stands there until then
            while j - 1 > there and same[j - 1, : turn + 1].any():
                j -= 1
            return j
    return len(c2w)
