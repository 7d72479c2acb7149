"""Teacher forcing within a policy's windows: every chunk learns in one step, seeing what the policy would show it."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from backbones.rooms_memory import Memory
from backbones.rooms_network import ray_angles
from backbones.rooms_recurrent import RecurrentMemory
from backbones.rope import rotate
from harness.training.teacher import attention
from harness.training.windows import Window


class _Clip(NamedTuple):
    """The windows of one clip's chunks, one after the other: the clean copy's rows that theirs are sums of, with what weights (None: each is one
    row), how many rows each window has, where all are rotated to, and where the rows of both copies are."""

    source: Tensor
    target: Tensor
    weight: Tensor | None
    rows: list[int]
    context: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor]
    biases: list[Tensor | None]


class PlannedForcing:
    """The seam while an arm is trained. Tokens hold the clean copy of the clips (all chunks but the last), then the noisy one (all but the first),
    as in `TeacherForcing`; clean and noisy chunk i attend to the rows of the clean copy that `windows[clip][i]` names, and to themselves.

    What belongs to all chunks is computed at once and then split: the gradient of a slice is as large as what it was taken from, and those of
    a clip's many slices took a quarter of a step.
    memory: what the arm adds to attention; its state is read by chunk i before the clean chunk i is written to it.
    positions, rays (the network's features of them): of all chunks. size: frames of a chunk.
    """

    def __init__(
        self, windows: Sequence[Sequence[Window]], positions: Float[Tensor, "b f s 3"], rays: Float[Tensor, "b f s r"], size: int, memory: Memory
    ) -> None:
        self._rows, self._memory, self._rays = size * positions.shape[2], memory, rays.flatten(1, 2)
        self._clips = [_placed(ws, p.split(size), size) for ws, p in zip(windows, positions, strict=True)]

    def __call__(self, layer: int, q: Float[Tensor, "b n h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n h d"]:
        by_clip = zip(self._clips, q.split(1), k.split(1), v.split(1), strict=True)
        out = torch.cat([self._attend(clip, q_, k_, v_) for clip, q_, k_, v_ in by_clip])
        if isinstance(self._memory, RecurrentMemory) and layer in self._memory.layers:
            out = self._memory.mix(layer, out, recalled(self._memory, self._rows, layer, self._rays, k, v), q)
        return out

    def _attend(self, clip: _Clip, q: Float[Tensor, "1 n h d"], k: Float[Tensor, "1 n h d"], v: Float[Tensor, "1 n h d"]) -> Float[Tensor, "1 n h d"]:
        half, chunks = q.shape[1] // 2, len(clip.rows)
        past_k, past_v = rotate(_window_rows(clip, k[:, :half]), *clip.context).split(clip.rows, 1), _window_rows(clip, v[:, :half]).split(clip.rows, 1)
        own = list(zip(*(x.split(self._rows, 1) for x in (rotate(q, *clip.own), rotate(k, *clip.own), v)), strict=True))
        outs = []
        for at, (own_q, own_k, own_v) in zip([*range(chunks - 1), *range(1, chunks)], own, strict=True):
            keys, values = torch.cat([past_k[at], own_k], 1), torch.cat([past_v[at], own_v], 1)
            outs.append(attention(own_q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), clip.biases[at]).transpose(1, 2))
        return torch.cat(outs, 1)


def _placed(windows: Sequence[Window], positions: Sequence[Float[Tensor, "f s 3"]], size: int) -> _Clip:
    device = positions[0].device
    own = [p.flatten(0, 1).clone() for p in positions]
    for i, (window, rows) in enumerate(zip(windows, own, strict=True)):
        if window.plan.start is not None:
            rows[:, 0] += window.plan.start - i * size
    starts = torch.tensor([0, *(w.rows for w in windows)]).cumsum(0).tolist()
    weights = [torch.ones(len(w.source)) if w.weight is None else w.weight for w in windows]
    return _Clip(
        torch.cat([w.source for w in windows]).to(device),
        torch.cat([w.target + start for w, start in zip(windows, starts, strict=False)]).to(device),
        None if all(w.weight is None for w in windows) else torch.cat(weights).to(device),
        [w.rows for w in windows],
        _turn(torch.cat([w.positions for w in windows]).to(device)),
        _turn(torch.cat([*own[:-1], *own[1:]])),
        [None if w.mass is None else torch.cat([w.mass.log(), torch.zeros(len(rows))]).to(device) for w, rows in zip(windows, own, strict=True)],
    )


def _window_rows(clip: _Clip, x: Float[Tensor, "1 n h d"]) -> Float[Tensor, "1 m h d"]:
    """The rows of all windows; of pooled ones, their sums."""
    x = x.index_select(1, clip.source)
    if clip.weight is None:
        return x
    return x.new_zeros(1, sum(clip.rows), *x.shape[2:]).index_add(1, clip.target, x * clip.weight.to(x.dtype)[:, None, None])


def recalled(
    memory: RecurrentMemory, rows: int, layer: int, rays: Float[Tensor, "b n r"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]
) -> Float[Tensor, "b m h d"]:
    """What a recurrent memory recalls: chunk after chunk of `rows` rows, read before it is written. rays: of all chunks; k and v: of both copies."""
    state, clean, noisy = memory.blank(len(k)), [], []
    looks, written = rays.split(rows, 1), list(zip(k.split(rows, 1), v.split(rows, 1), strict=True))
    for i, look in enumerate(looks):
        found = memory.read(layer, state, look)  # the same for both copies: they look along the same rays
        if i:
            noisy.append(found)
        if i < len(looks) - 1:
            clean.append(found)
            state = memory.write(layer, state, look, *written[i])
    return torch.cat(clean + noisy, 1)


def _turn(positions: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor]:
    angles = ray_angles(positions)[:, None]
    return angles.cos(), angles.sin()
