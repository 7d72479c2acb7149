"""Teacher forcing for chunk-autoregressive training: every chunk learns in one step, as the cache will serve it later."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from backbones.rooms_network import ray_angles
from backbones.rope import rotate


def attention(
    q: Float[Tensor, "b h m d"], k: Float[Tensor, "b h n d"], v: Float[Tensor, "b h n d"], bias: Float[Tensor, "n"] | None = None
) -> Float[Tensor, "b h m d"]:
    """Softmax attention. bias: added to the logits of the rows.

    In mixed precision on a CPU its two products are taken one after the other: forward and backward then take half
    the time of torch's fused kernel, which gains nothing from bfloat16 (192 queries, 1,536 keys, one core: 15 ms against 27 ms)."""
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))
        return torch.matmul((scores if bias is None else scores + bias).softmax(-1), v)
    return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype).expand(1, 1, q.shape[2], -1))


class TeacherForcing:
    """The seam while training. Tokens hold the clean copy of a clip, then its noisy copy.

    Clean chunk i attends to the clean chunks 0..i, noisy chunk i to the clean chunks 0..i-1 and to itself: slices instead
    of a mask, so that nothing is computed and then thrown away. The clean copy is chunks 0..n-2 (the last is nobody's
    past), the noisy copy chunks 1..n-1 (the first has no past, and is always given). positions: (t, elevation, azimuth).
    """

    def __init__(self, positions: Float[Tensor, "b f s 3"], rows_per_chunk: int) -> None:
        flat = positions.flatten(1, 2)
        angles = ray_angles(torch.cat([flat[:, :-rows_per_chunk], flat[:, rows_per_chunk:]], 1))[:, :, None]
        self.cos, self.sin = angles.cos(), angles.sin()
        self.rows = rows_per_chunk

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin), v))
        half, m = q.shape[2] // 2, self.rows
        clean, noisy = [], []
        for start in range(0, half, m):
            own, past = slice(start, start + m), slice(0, start + m)
            clean.append(attention(q[:, :, own], k[:, :, past], v[:, :, past]))
            tail = slice(half + start, half + start + m)
            keys, values = (torch.cat([x[:, :, past], x[:, :, tail]], 2) for x in (k, v))
            noisy.append(attention(q[:, :, tail], keys, values))
        return torch.cat(clean + noisy, 2).transpose(1, 2)
