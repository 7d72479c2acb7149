"""Score rows by the attention that they receive, less what they have in common with the others."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.page import Page
from harness.datatypes import Geometry
from harness.settings.ranges import Share
from policies.parts.score.mass import Kernel, MassScorer, Pool


@dataclass
class FlowScorer(MassScorer):
    """FlowCache (arXiv 2602.10825): mix * maxpool7(share) - (1 - mix) * softmax_i(mean_j cos(k_i, k_j)), head by head.

    The second term sums to 1 over a pool; the first, before pooling, to what the softmax leaves it beside sink and recent rows (0.3 to 0.5,
    measured). The chunk's own rows take no part in the softmax of the shares, as in the released code.
    mean_j cos(k_i, k_j) = u_i . mean_j u_j with unit keys u: no n x n matrix.
    keys: raw (before RoPE: content alone, for rows that are far apart in time; the bank then keeps un-rotated keys) or rotated.
    The rows that are scored are read from the bank, and counted as moved.
    Simplified: the released code scores with the queries of the chunk that is generated, here those of the finished chunk's clean pass count.
    Uncertain: which form of keys the released caches hold; its weighting by age (a choice of six, none a default) is left out;
    the shares' softmax there runs over the past alone, here over sink and recent rows too. Not done: its reuse of features between passes, from which most
    of its speed comes; here is its score of K/V alone.
    """

    mix: Share = 0.07
    keys: Literal["raw", "rotated"] = "raw"
    kernel: Kernel = 7
    pool: Pool = "max"
    own: bool = False

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        self.raw_keys = self.keys == "raw"

    def score(self, frames: tuple[int, ...], bank: KVBank) -> Tensor:
        page = Page.joined([bank.page(f) for f in frames])
        unit = F.normalize(page.k.float(), dim=-1)  # absent rows are zeros, and like no other
        there = page.present
        count = page.rows if there is None else there.sum(1).clamp(min=1)[:, None, :, None]
        alike = torch.einsum("lbnhd,lbhd->lnh", unit, (unit.sum(2) / count)) / unit.shape[1]
        if there is not None:
            alike = alike.masked_fill(~there.to(alike.device), -torch.inf)
        return self.mix * super().score(frames, bank) - (1 - self.mix) * alike.softmax(1)
