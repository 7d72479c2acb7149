"""Slots: where the rows of every frame lie in the window's buffer."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Layout(NamedTuple):
    """Where rows lie in `[0, length)` once a plan is assembled.

    tail: the chunk's own rows, one contiguous run. slots: those of every planned frame, in the order of its rows.
    source, target: rows to be copied first, because they lay beyond the new end or where the chunk goes.
    """

    length: int
    tail: slice
    slots: dict[int, np.ndarray]
    source: np.ndarray
    target: np.ndarray


def lay_out(here: Mapping[int, np.ndarray], rows: Mapping[int, int], own: int) -> Layout:
    """Give every planned frame its slots and the chunk a contiguous run of `own`, so that no slot is left over.

    here: slots of the frames that stay. rows: how many rows each planned frame has. Frames that stay keep their slots
    where they can: attention does not depend on the order of its rows, so the chunk takes the hole that an evicted chunk leaves.
    """
    length = sum(rows.values()) + own
    free = np.ones(length, dtype=bool)
    for slots in here.values():
        free[slots[slots < length]] = False
    start = _first_run(free, own, default=length - own)
    free[start : start + own] = False
    holes = np.flatnonzero(free)
    laid, sources, used = dict(here), [np.empty(0, dtype=np.int64)], 0
    for frame, slots in here.items():
        away = (slots >= length) | ((slots >= start) & (slots < start + own))
        if n := int(away.sum()):
            sources.append(slots[away])
            laid[frame] = slots.copy()
            laid[frame][away] = holes[used : used + n]
            used += n
    target, holes = holes[:used], holes[used:]
    for frame, n in rows.items():
        if frame not in laid:
            laid[frame], holes = holes[:n], holes[n:]
    assert not len(holes), f"{len(holes)} slots of the window belong to nobody"
    return Layout(length, slice(start, start + own), laid, np.concatenate(sources), target)


def index(slots: np.ndarray) -> slice | Tensor:
    """Slots as a slice when they are contiguous (the usual case: a view, not a gather)."""
    if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return torch.from_numpy(slots)


def _first_run(free: np.ndarray, length: int, default: int) -> int:
    """Start of the first run of `length` free slots, or `default`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    fits = np.flatnonzero(stops - starts >= length)
    return int(starts[fits[0]]) if len(fits) else default
