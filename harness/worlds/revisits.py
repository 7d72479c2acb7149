"""Which frames see the same view again: found from poses alone, exact after the rounding to latent frames."""

import torch
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import Overlap, RevisitPair
from harness.worlds.poses import angle

ASKED = 8  # views at a time, of which the truth is asked


def distances(c2w: Float[Tensor, "f 4 4"]) -> tuple[Float[Tensor, "f f"], Float[Tensor, "f f"]]:
    """Metres and degrees between every two poses."""
    position, rotation = c2w[:, :3, 3], c2w[:, :3, :3]
    # not cdist: for more than 25 points it multiplies matrices, and a pose is then millimetres from itself
    return (position[:, None] - position[None]).norm(dim=-1), angle(rotation[:, None], rotation[None])


def find_pairs(
    c2w: Float[Tensor, "p 4 4"],
    fov: float,
    stride_px: int = 1,
    min_gap: int = 9,
    metres: float = 1e-3,
    degrees: float = 0.05,
    overlap: float = 0.25,
    truth: Overlap | None = None,
) -> tuple[RevisitPair, ...]:
    """The first visit of every view against each later one.

    A frame revisits the earliest frame whose pose is within `metres` and `degrees`, if at least `min_gap` video frames
    lie between and the view was left: at some frame between, less than `overlap` of it was shared, by the angle between the
    views and the field of view `fov` (degrees), or, where there is a `truth`, by true co-visibility. Poses are taken at latent
    frames (every `stride_px`-th video frame): a pair is exact for what the model was told, and both frames have the same phase
    within their latent frame.
    """
    poses = c2w[::stride_px]
    far, turned = distances(poses)
    same = (far <= metres) & (turned <= degrees)
    shared = (1 - turned / fov).clamp(min=0)
    unlike = turned.round(decimals=2) * 1e3 + far
    left: dict[int, int] = {}  # by first visit: a frame at which its view was left
    pairs = []
    for j in range(len(poses)):
        i = int(torch.nonzero(same[j])[0])
        if (j - i) * stride_px < min_gap:
            continue
        if i not in left:
            between = i + unlike[i, i : j + 1].argsort(descending=True)  # the truth is asked for those first that are likely to be out of sight
            for some in [between] if truth is None else between.split(ASKED):
                share = shared[i, some] if truth is None else truth([i * stride_px], (some * stride_px).tolist())[0]
                if (share < overlap).any():
                    left[i] = int(some[share < overlap][0])
                    break
        if i in left:
            other = int(unlike[i].argmax())
            pairs.append(RevisitPair(i * stride_px, j * stride_px, other * stride_px, far[i, j].item(), turned[i, j].item()))
    return tuple(pairs)


def outbound(c2w: Float[Tensor, "p 4 4"], metres: float = 1e-3, degrees: float = 0.05) -> int:
    """Number of frames before the camera first comes back to a pose that it had left: the first leg."""
    far, turned = distances(c2w)
    same = (far <= metres) & (turned <= degrees)
    for j in range(2, len(c2w)):
        earlier = torch.nonzero(same[j, :j])
        if len(earlier) and not same[j, int(earlier[-1]) : j].all():
            return j
    return len(c2w)
