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


class _Placed(NamedTuple):
    """A window, and the angles of its rows and of the chunk's own."""

    window: Window
    context: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor]
    bias: Tensor | None


class PlannedForcing:
    """The seam while an arm is trained. Tokens hold the clean copy of the clips (all chunks but the last), then the noisy one (all but the first),
    as in `TeacherForcing`; clean and noisy chunk i attend to the rows of the clean copy that `windows[clip][i]` names, and to themselves.

    memory: what the arm adds to attention; its state is read by chunk i before the clean chunk i is written to it.
    positions: of all chunks. size: frames of a chunk.
    """

    def __init__(self, windows: Sequence[Sequence[Window]], positions: Float[Tensor, "b f s 3"], size: int, memory: Memory) -> None:
        self._rows, self._memory = size * positions.shape[2], memory
        self._placed = [
            [self._place(w, own, i * size) for i, (w, own) in enumerate(zip(ws, p.split(size), strict=True))] for ws, p in zip(windows, positions, strict=True)
        ]

    @staticmethod
    def _place(window: Window, own: Float[Tensor, "f s 3"], first: int) -> _Placed:
        device = own.device
        positions = own.flatten(0, 1).clone()
        if window.plan.start is not None:
            positions[:, 0] += window.plan.start - first
        moved = window.to(device)
        bias = None if moved.mass is None else torch.cat([moved.mass.log(), torch.zeros(len(positions), device=device)])
        return _Placed(moved, _turn(moved.positions), _turn(positions), bias)

    def __call__(self, layer: int, q: Float[Tensor, "b n h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"]) -> Float[Tensor, "b n h d"]:
        half, m = q.shape[1] // 2, self._rows
        clips = []
        for clip, placed in enumerate(self._placed):
            q_, k_, v_ = (x[clip : clip + 1] for x in (q, k, v))
            clean, noisy = [], []
            for i, at in enumerate(placed):
                context = self._context(at, k_[:, :half], v_[:, :half])
                if i * m < half:
                    clean.append(self._attend(at, context, *(x[:, i * m : (i + 1) * m] for x in (q_, k_, v_))))
                if i:
                    tail = slice(half + (i - 1) * m, half + i * m)
                    noisy.append(self._attend(at, context, *(x[:, tail] for x in (q_, k_, v_))))
            clips.append(torch.cat(clean + noisy, 1))
        out = torch.cat(clips)
        if isinstance(self._memory, RecurrentMemory) and layer in self._memory.layers:
            out = out + recalled(self._memory, self._rows, layer, q, k, v)
        return out

    @staticmethod
    def _context(at: _Placed, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The window's rows; of pooled ones, their sums."""
        window = at.window
        k, v = (x.index_select(1, window.source) for x in (k, v))
        if window.weight is not None:
            k, v = (x.new_zeros(1, window.rows, *x.shape[2:]).index_add(1, window.target, x * window.weight.to(x.dtype)[:, None, None]) for x in (k, v))
        return rotate(k, *at.context), v

    @staticmethod
    def _attend(at: _Placed, context: tuple[Tensor, Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = torch.cat([context[0], rotate(k, *at.own)], 1), torch.cat([context[1], v], 1)
        q, keys, values = (x.transpose(1, 2) for x in (rotate(q, *at.own), keys, values))
        return attention(q, keys, values, at.bias).transpose(1, 2)


def recalled(memory: RecurrentMemory, rows: int, layer: int, q: Float[Tensor, "b m h d"], k: Tensor, v: Tensor) -> Float[Tensor, "b m h d"]:
    """What a recurrent memory adds: chunk after chunk of `rows` rows, read before it is written."""
    half = q.shape[1] // 2
    state, clean, noisy = memory.blank(len(q)), [], []
    for start in range(0, half + rows, rows):
        if start:
            noisy.append(memory.read(layer, state, q[:, half + start - rows : half + start]))
        if start < half:
            own = slice(start, start + rows)
            clean.append(memory.read(layer, state, q[:, own]))
            state = memory.write(layer, state, k[:, own], v[:, own])
    return torch.cat(clean + noisy, 1)


def _turn(positions: Float[Tensor, "n 3"]) -> tuple[Tensor, Tensor]:
    angles = ray_angles(positions)[:, None]
    return angles.cos(), angles.sin()
