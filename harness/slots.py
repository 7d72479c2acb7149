"""Slots: numbers of rows in a buffer."""

import numpy as np
import torch
from torch import Tensor


def first_run(free: np.ndarray, length: int, default: int) -> int:
    """Start of the first run of `length` free slots, or `default`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], free.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    fits = np.flatnonzero(stops - starts >= length)
    return int(starts[fits[0]]) if len(fits) else default


def index(slots: np.ndarray) -> slice | Tensor:
    """Slots as a slice when they are contiguous (the usual case: a view, not a gather)."""
    if len(slots) and slots[-1] - slots[0] == len(slots) - 1 and (np.diff(slots) == 1).all():
        return slice(int(slots[0]), int(slots[-1]) + 1)
    return torch.from_numpy(slots)
