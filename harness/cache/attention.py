"""Attention over [context | chunk]: the fast route, its weights for those who need them, and the definition."""

from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.datatypes import Site

Groups = tuple[tuple[Int[Tensor, "g"], Int[Tensor, "r"]], ...]


class Attends(Protocol):
    """What the window asks of a policy: attention of a chunk's queries over the rows that it shows."""

    def attend(self, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], site: Site) -> Float[Tensor, "b m h d"]: ...


def dense(
    q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], bias: Float[Tensor, "*h n"] | None = None, groups: Groups = ()
) -> Float[Tensor, "b m h d"]:
    """Softmax attention of every query over every row, through PyTorch's fused kernels.

    bias: added to the rows' logits, for all heads or head by head. groups: heads and the rows that they see, where not all
    heads see the same; each group is an attention of its own, so that what is not seen costs nothing.
    """
    if groups:
        out = torch.empty_like(q)
        for heads, rows in groups:
            part = None if bias is None else bias[..., rows] if bias.dim() == 1 else bias[heads][:, rows]
            keys, values = k.index_select(1, rows), v.index_select(1, rows)
            if len(heads) == q.shape[2]:
                return dense(q, keys, values, part)
            out[:, :, heads] = dense(q[:, :, heads], keys[:, :, heads], values[:, :, heads], part)
        return out
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None if bias is None else bias.to(q.dtype).reshape(1, -1, 1, k.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def weights(
    q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], bias: Float[Tensor, "*h n"] | None = None, groups: Groups = (), numbers: int = 2**24
) -> Iterator[Float[Tensor, "b h r n"]]:
    """The softmax of `dense`, a run of queries at a time so that at most `numbers` entries (or one query's) exist at once.

    Rows that a head does not see weigh 0. For score-keepers: it costs them about a second attention.
    """
    b, m, h, d = q.shape
    logits = torch.zeros(h, k.shape[1], device=q.device) if bias is None else bias.float().expand(h, -1)
    if groups:
        shut = torch.full_like(logits, -torch.inf)
        for heads, rows in groups:
            shut[heads[:, None], rows] = 0
        logits = logits + shut
    keys = k.permute(0, 2, 3, 1).float() / d**0.5
    for part in q.transpose(1, 2).float().split(max(1, numbers // (b * h * k.shape[1])), 2):
        yield (part @ keys + logits[:, None]).softmax(-1)


def received(q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], bias: Float[Tensor, "*h n"] | None = None, groups: Groups = ()) -> Float[Tensor, "h n"]:
    """The share of attention that each row gets, averaged over the queries, head by head; sums to 1 over the rows."""
    return torch.stack([w.sum((0, 2)) for w in weights(q, k, bias, groups)]).sum(0) / (q.shape[0] * q.shape[1])


def groups_of(seen: Bool[Tensor, "h n"]) -> Groups:
    """Heads that see the same rows together; () where every head sees every row."""
    if seen.all():
        return ()
    kinds, kind = seen.unique(dim=0, return_inverse=True)
    return tuple(((kind == i).nonzero()[:, 0], rows.nonzero()[:, 0]) for i, rows in enumerate(kinds))


def bias_and_groups(bias: Float[Tensor, "h|1 n"], heads: int) -> tuple[Float[Tensor, "*h n"] | None, Groups]:
    """What attention is told of a layer: no bias where every row that is seen stands for itself."""
    seen = bias > -torch.inf
    groups = groups_of(seen.expand(heads, -1))
    if not (seen & (bias != 0)).any():
        return None, groups
    return (bias.expand(heads, -1) if groups else bias[0] if len(bias) == 1 else bias), groups


def reference(
    q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], mask: Bool[Tensor, "m n"] | None = None
) -> Float[Tensor, "b m h d"]:
    """The definition in float64, with an optional mask of what each query may see. For tests."""
    logits = torch.einsum("bmhd,bnhd->bhmn", q.double(), k.double()) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.einsum("bhmn,bnhd->bmhd", logits.softmax(-1), v.double()).to(q.dtype)
