"""One rollout over several processes, each of which holds a share of the attention heads: what they must tell one another."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process (`rank`) among the `size` that share one rollout; all of them together are PyTorch's default process group."""

    size: int = 1
    rank: int = 0

    def sum(self, x: Tensor) -> Tensor:
        """Over all ranks, the same on each of them. Floats are added in float64, so that their number hardly shows in the result."""
        if self.size == 1:
            return x
        total = x.to(torch.float64 if x.is_floating_point() else torch.int64, copy=True)
        dist.all_reduce(total)
        return total.to(x.dtype)

    def max(self, x: Tensor) -> Tensor:
        """The greatest of all ranks."""
        if self.size == 1:
            return x
        greatest = x.clone()
        dist.all_reduce(greatest, dist.ReduceOp.MAX)
        return greatest

    def first(self, x: Tensor) -> Tensor:
        """What rank 0 has of a tensor of the same shape and type on all ranks."""
        if self.size > 1:
            x = x.contiguous()
            dist.broadcast(x, 0)
        return x

    def check_same(self, number: int, what: str) -> None:
        """Raise RuntimeError where ranks hold different numbers (63 bits): they would wait for one another for ever, or mix two rollouts."""
        if self.size == 1:
            return
        pair = torch.tensor([number, -number])
        dist.all_reduce(pair, dist.ReduceOp.MAX)
        if int(pair[0]) != -int(pair[1]):
            raise RuntimeError(f"{what}: the {self.size} ranks of this rollout disagree; a policy that decides from what it sees must do so over all heads")


ALONE = Ranks()


def joined(size: int) -> Ranks:
    """This process among the `size` that share a rollout. Raises ValueError where they have not been started."""
    if size == 1:
        return ALONE
    if not dist.is_initialized() or dist.get_world_size() != size:
        started = dist.get_world_size() if dist.is_initialized() else 1
        raise ValueError(
            f"backbone.parallel={size}: a rollout over {size} ranks needs as many processes, there are {started}; python harness/run.py starts them, "
            f"or torchrun --nproc-per-node={size} harness/run.py"
        )
    return Ranks(size, dist.get_rank())
