"""Scratch: what a policy keeps between chunks beside window and bank (scores, summaries, descriptors)."""

from dataclasses import is_dataclass
from typing import Any

import numpy as np
from torch import Tensor


def scratch_bytes(policy: Any) -> int:
    """Bytes of the tensors and arrays that a policy and its parts hold, whether a snapshot could save them or not.

    Views of one memory count together, and no more than it has. Numbers, text and the containers themselves are not counted.
    """
    held: dict[int, tuple[int, int]] = {}  # where memory begins -> bytes in use, bytes of all of it
    _collect(vars(policy), held)
    return sum(min(used, whole) for used, whole in held.values())


def _collect(value: Any, held: dict[int, tuple[int, int]]) -> None:
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        used, _ = held.get(storage.data_ptr(), (0, 0))
        held[storage.data_ptr()] = (used + value.nbytes, storage.nbytes())
    elif isinstance(value, np.ndarray):
        nbytes = max(value.nbytes, *held.get(value.ctypes.data, (0,)))  # of an array and its views, the largest
        held[value.ctypes.data] = (nbytes, nbytes)
    elif isinstance(value, dict):
        for part in value.values():
            _collect(part, held)
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            _collect(part, held)
    elif is_dataclass(value) and not isinstance(value, type):
        _collect(vars(value), held)
