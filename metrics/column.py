"""What is known of a column of results: what it is called, in which unit and with how many digits it is shown, which way is better.

A metric class and the cost function say it of their own columns; every view (terminal, report, CSV, W&B, docs) reads it from there.
"""

from collections.abc import Iterable
from dataclasses import dataclass

PLACE = ("chunk", "target", "gap", "metres", "aside_metres", "aside_degrees")  # what a recall probe's row says besides its scores

GROUPS = ("quality", "cost", "memory", "budget")  # of columns, in the order of tables
ARMS = {  # what an audit replaces the pages that a probe brought back by
    "wrong": "other pages of the walk, which show nothing of the view",
    "other": "pages of another trajectory",
    "mean": "their mean",
    "none": "none",
}


@dataclass(frozen=True)
class Column:
    """key: in a run's summary. name: short, for filters. group: quality, cost, memory or budget.

    better: 1 more, -1 less, 0 neither. about: what it is, in a line. factor: from the stored number to the shown unit.
    rank: which columns stay where there is no room for all, 1 the longest; the report's page hides those from 5 on at first.
    difference: whether its paired difference to the baseline is shown. timed: depends on the machine, so it is comparable on one only.
    floor, ceiling: the summary's keys of the values between which it lies, where a run has them.
    """

    key: str
    name: str
    heading: str
    group: str
    decimals: int = 2
    better: int = 0
    about: str = ""
    factor: float = 1.0
    unit: str = ""
    rank: int = 3
    difference: bool = False
    timed: bool = False
    floor: str = ""
    ceiling: str = ""

    @property
    def title(self) -> str:
        """Heading with unit."""
        return f"{self.heading} ({self.unit})" if self.unit else self.heading

    def show(self, value: float, sign: bool = False) -> str:
        """The value in the shown unit. sign: with a plus, for differences."""
        return f"{value * self.factor:{'+' if sign else ''}.{self.decimals}f}"


def leading_score(row: dict[str, float]) -> float:
    """What a pair is ranked by, more being better: PSNR, or the first score that there is."""
    return row["psnr_revisit"] if "psnr_revisit" in row else next((-v if k.startswith("lpips") else v for k, v in row.items() if k.endswith("_revisit")), 0.0)


def recalled(rows: Iterable[dict[str, float]]) -> list[str]:
    """The scores that rows of recall probes have, those of an audit's replacements left out."""
    return [k for k in dict.fromkeys(k for row in rows for k in row) if k not in PLACE and k.rpartition("_")[2] not in ARMS]
