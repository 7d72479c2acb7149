"""Cells of space, each a number: which are there for the first time, and who showed them."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

NOBODY = 2**62  # beyond all chunks


def first_of_each(codes: Int[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Which numbers are there for the first time."""
    order = codes.argsort(stable=True)
    ranked = codes[order]
    first = torch.ones(len(codes), dtype=torch.bool)
    first[order[1:]] = ranked[1:] != ranked[:-1]
    return first


def oldest_of_each(cells: Int[Tensor, "c"], shown: Int[Tensor, "n"], by: Int[Tensor, "n"]) -> Int[Tensor, "c"]:
    """The first chunk that showed each cell, of pairs of a cell and a chunk; NOBODY for a cell that none did."""
    ranked, order = cells.sort()
    at = torch.searchsorted(ranked, shown).clamp(max=len(cells) - 1) if len(cells) else shown[:0]
    known = ranked[at] == shown[: len(at)]
    found = torch.full_like(cells, NOBODY)
    found[order] = found.scatter_reduce(0, at[known], by[: len(at)][known], "amin")
    return found
