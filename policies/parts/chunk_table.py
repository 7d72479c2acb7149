"""Tensors of every chunk in one memory, so that a thousand chunks are compared at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass
class ChunkTable:
    """One row a chunk, of any number of tensors. Memory doubles when it is full; the row of a forgotten chunk is used again."""

    def reset(self) -> None:
        self._rows: dict[int, int] = {}
        self._free: list[int] = []
        self._columns: list[Tensor] = []

    def put(self, chunk: int, *parts: Tensor) -> None:
        if not self._columns:
            self._columns = [part.new_zeros(16, *part.shape) for part in parts]
            self._free = list(range(15, -1, -1))
        if not self._free:
            have = len(self._columns[0])
            self._columns = [torch.cat([column, torch.zeros_like(column)]) for column in self._columns]
            self._free = list(range(2 * have - 1, have - 1, -1))
        row = self._rows[chunk] = self._rows[chunk] if chunk in self._rows else self._free.pop()
        for column, part in zip(self._columns, parts, strict=True):
            column[row] = part

    def forget(self, chunk: int) -> None:
        if chunk in self._rows:
            self._free.append(self._rows.pop(chunk))

    def take(self, chunks: Sequence[int], *columns: int) -> list[Tensor]:
        """The tensors of these chunks, stacked; of all columns, or of some. Raises KeyError for a chunk that is not here."""
        rows = torch.from_numpy(np.fromiter(map(self._rows.__getitem__, chunks), np.int64, len(chunks)))
        wanted = [self._columns[c] for c in columns] if columns else self._columns
        return [column.index_select(0, rows.to(column.device)) for column in wanted]
