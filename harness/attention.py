"""Attention over [context | chunk]: the fast route and the one it is checked against."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def dense(
    q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], bias: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "b m h d"]:
    """Softmax attention of every query over every row, through PyTorch's fused kernels. bias: added to the rows' logits."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = None if bias is None else bias.to(q.dtype)[None, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def reference(
    q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], mask: Bool[Tensor, "m n"] | None = None
) -> Float[Tensor, "b m h d"]:
    """The definition in float64, with an optional mask of what each query may see. For tests."""
    logits = torch.einsum("bmhd,bnhd->bhmn", q.double(), k.double()) / q.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    return torch.einsum("bhmn,bnhd->bmhd", logits.softmax(-1), v.double()).to(q.dtype)
