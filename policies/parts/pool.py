"""Rows of many frames that are ranked together: which of them are best, and which frames they come from."""

from math import inf

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.datatypes import Geometry


def best_rows(score: Float[Tensor, "l n h"], counts: list[int], per_head: bool, g: Geometry, run: int = 1) -> Int[Tensor, "l c *h"]:
    """The `counts` best rows of each layer, head by head or (not per_head) by the mean of the heads, in rising order; ties to
    the first; -1 first in layers that keep less than others. run: rows that each score is of, one after the other."""
    if run > 1 and any(count % run for count in counts):
        score, run = score.repeat_interleave(run, 1), 1
    if run > 1:
        runs = best_rows(score, [count // run for count in counts], per_head, g)
        within = torch.arange(run, device=runs.device).view(-1, *[1] * (runs.dim() - 2))
        return torch.where(runs[:, :, None] < 0, -1, runs[:, :, None] * run + within).flatten(1, 2)
    score = score if per_head else g.mean_over_heads(score, 2)[..., None]
    most, count = max(counts), torch.tensor(counts, device=score.device)[:, None, None]
    if not most:
        return score.new_zeros(len(score), 0, *score.shape[2 : 2 + per_head], dtype=torch.long)
    falling = score.transpose(1, 2).contiguous()  # l h n
    best = falling.topk(most, 2).values  # the least of the best is found without sorting a long past
    if bool(best.isnan().any()):  # which topk calls the greatest, and no comparison finds; the session says where they come from
        falling = falling.nan_to_num(inf, inf, -inf)
        best = falling.topk(most, 2).values
    least = best.gather(2, (count - 1).clamp(min=0).expand(-1, falling.shape[1], 1))
    above, tied = falling > least, falling == least
    taken = above | (tied & (tied.cumsum(2, dtype=torch.int32) <= count - above.sum(2, keepdim=True)))
    taken &= count > 0
    rows = torch.full_like(best, -1, dtype=torch.long)
    filled = torch.arange(most, device=score.device) >= most - count  # -1 first in layers that keep less
    rows[filled.expand_as(rows)] = taken.nonzero()[:, 2]
    rows = rows.transpose(1, 2).contiguous()
    return rows if per_head else rows[..., 0]


def sources(frames: tuple[int, ...], sizes: list[int], rows: Int[Tensor, "l c *h"], g: Geometry) -> tuple[tuple[int, ...], Int[Tensor, "l c *h"]]:
    """The frames that `rows` of their concatenated rows come from, and the rows counted over these frames alone."""
    ends = torch.tensor(sizes, device=rows.device).cumsum(0)
    owner = torch.searchsorted(ends, rows.clamp(min=0).contiguous(), right=True)
    used = torch.zeros(len(frames), dtype=torch.bool, device=rows.device)
    used[owner[rows >= 0]] = True
    used = g.ranks.max(used.int()).bool()
    skipped = (torch.tensor(sizes, device=rows.device) * ~used).cumsum(0)  # rows of unused frames up to each frame
    return tuple(f for f, u in zip(frames, used.tolist(), strict=True) if u), torch.where(rows < 0, rows, rows - skipped[owner])


def contiguous(frames: list[int], pool: tuple[int, ...], sink: int, recent: int, start: int, span: int, whole: bool) -> tuple[float, ...]:
    """Positions of a window's frames if the sink ended where a pool of `span` frames begins that ends before the recent ones, which
    stay. whole: the pool too is moved there, once it is one page."""
    first = start - sum(f >= max(sink, start - recent) for f in frames) - span
    moved = {f: first - min(sink, start) + f for f in frames if f < sink}
    if whole and len(pool) == 1:
        moved[pool[0]] = first
    return tuple(float(moved.get(f, f)) for f in frames)
