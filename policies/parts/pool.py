"""Rows of many frames that are ranked together: which of them are best, and which frames they come from."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harness.datatypes import Geometry


def best_rows(score: Float[Tensor, "l n h"], counts: list[int], per_head: bool, g: Geometry) -> Int[Tensor, "l c *h"]:
    """The `counts` best rows of each layer, head by head or (not per_head) by the mean of the heads, in rising order; ties to
    the first; -1 first in layers that keep less than others."""
    most = max(counts)
    best = (score if per_head else g.mean_over_heads(score, 2)[..., None]).argsort(dim=1, descending=True, stable=True)[:, :most]
    late = torch.arange(most)[:, None] >= torch.tensor(counts)[:, None, None]
    rows = best.masked_fill(late.to(best.device), -1).sort(1).values
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
