"""Groups of rows that stand for one another: which group a row joins, and which frames still have a row in one."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.datatypes import Geometry
from policies.wrappers.ann import Hashing


def nearest(
    new: Float[Tensor, "g s c"], old: Float[Tensor, "g n c"], there: Bool[Tensor, "g n"], hashing: Hashing, numbers: int = 2**24, over: Geometry | None = None
) -> tuple[Float[Tensor, "g s"], Int[Tensor, "g s"]]:
    """Of each new row the greatest cosine to an old one that is there and shares a hash bucket (-2: none), and which it is.

    Rows are unit vectors. over: of a network whose heads are concatenated in a row, this rank's of them.
    At most `numbers` cosines (or those of one new row) exist at once: a run of new rows at a time.
    """
    codes, known = hashing.codes(new, over), hashing.codes(old, over)
    found = []
    for at in torch.arange(new.shape[1], device=new.device).split(max(1, numbers // (old.shape[0] * old.shape[1]))):
        near = hashing.neighbours(codes[:, at], known) & there[:, None]
        cosines = new[:, at] @ old.mT if over is None else over.ranks.sum(new[:, at] @ old.mT)
        found.append(cosines.masked_fill(~near, -2.0).max(-1))
    return torch.cat([best for best, _ in found], 1), torch.cat([at for _, at in found], 1)


@dataclass
class Members:
    """For a pool that drops groups: the group of every row of the past, `g` being layers, or layers and heads. A frame is lost once
    none of its rows is in a group any more in most layers and heads; it is then left out of the table."""

    def reset(self) -> None:
        self._frames: list[int] = []
        self._groups = torch.zeros(0, 0, 0, dtype=torch.int32)  # frame g s; -1: the group is gone
        self.lost: list[int] = []

    def join(self, frame: int, groups: Int[Tensor, "g s"]) -> None:
        """The rows of a frame joined these groups."""
        self._frames.append(frame)
        new = groups[None].to(torch.int32)
        self._groups = torch.cat([self._groups, new]) if len(self._frames) > 1 else new

    def keep(self, groups: Int[Tensor, "g c"], count: int) -> None:
        """Only these of `count` groups live on, numbered anew in this order."""
        own = torch.arange(groups.shape[1], dtype=torch.int32, device=groups.device).expand_as(groups)
        number = torch.full((len(groups), count), -1, dtype=torch.int32, device=groups.device).scatter(1, groups, own)
        here = self._groups.long().clamp(min=0)
        self._groups = number.expand(len(here), -1, -1).gather(2, here).masked_fill(self._groups < 0, -1)
        lives = (self._groups >= 0).any(2).float().mean(1) >= 0.5
        self.lost += [f for f, live in zip(self._frames, lives.tolist(), strict=True) if not live]
        self._frames = [f for f, live in zip(self._frames, lives.tolist(), strict=True) if live]
        self._groups = self._groups[lives]
