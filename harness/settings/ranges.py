"""What a setting may be, as the annotation of a constructor's argument: `def __init__(self, sink: Natural = 3)`.

Declared beside the class and nowhere else; `harness.settings.check` holds every config to it. Numbers are finite unless they are a
`Limit`, and neither text nor a truth value is taken for one.
"""

import re
from dataclasses import dataclass
from math import inf
from typing import Annotated

from annotated_types import Ge, Gt, Le, Len, Lt, Predicate

__all__ = [
    "Angle",
    "Count",
    "Device",
    "Ge",
    "Gt",
    "Le",
    "Len",
    "Limit",
    "Lt",
    "Natural",
    "Pixels",
    "Positive",
    "Rule",
    "Seed",
    "Share",
    "Side",
    "Size",
    "Weight",
]


@dataclass(frozen=True)
class Rule(Predicate):
    """What no range says. words: what is allowed, as in `use cpu, cuda, cuda:N or auto`."""

    words: str = ""


@dataclass(frozen=True)
class Unbounded:
    """Infinity stands for no limit."""


MOST = 1e15  # of a limit, which is multiplied by tokens, layers and heads


def _is_device(text: str) -> bool:
    return re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", text) is not None


Natural = Annotated[int, Ge(0), Le(10**9)]
Count = Annotated[int, Ge(1), Le(10**9)]
Seed = Annotated[int, Ge(0), Lt(2**63)]
Side = Annotated[int, Ge(1), Le(64)]  # points or parts along an edge
Positive = Annotated[float, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
Weight = Annotated[float, Ge(0)]
Limit = Annotated[float, Ge(0), Rule(lambda x: x <= MOST or x == inf, f"a number from 0 to {MOST:g}, or inf for no limit"), Unbounded()]
Angle = Annotated[float, Gt(0), Lt(180)]  # degrees
Pixels = Annotated[int, Ge(1), Le(16384)]
Size = Annotated[tuple[Pixels, ...], Len(2, 2)]  # rows, columns
Device = Annotated[str, Rule(_is_device, "cpu, cuda, cuda:N or auto")]
