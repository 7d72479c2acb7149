"""What memory is worth: recall above its floor, for what is stored and for what is attended to."""

from collections.abc import Mapping, Sequence

from metrics.column import Column
from metrics.frame import FrameMetric

PRICES = {"mb": ("cost/stored_bytes", 1e6, "MB", "MB stored"), "ktokens": ("cost/attended_tokens", 1e3, "1k tokens", "thousand tokens attended")}


def retention(values: Mapping[str, float], metrics: Sequence[FrameMetric]) -> dict[str, float]:
    """retention/<metric>_mb and _ktokens of one trajectory: the recall that a policy's pages add to its window without them (`audit/..._none`), as
    an improvement, over all bytes stored (window, bank, state and scratch) and over the tokens that a chunk attends to.

    The floor is the policy's own: same noise, same views, first and newest chunks as they are. An unrelated view would be lower, and would
    count as memory what any window shows. Against the first visit; of probes from beside, against the true view.
    """
    found = {}
    for metric in metrics:
        gain = values.get(f"audit/{metric.name}_none", values.get(f"audit/{metric.name}_true_none"))
        for end, (key, size, _, _) in PRICES.items():
            if gain is not None and values.get(key):
                found[f"retention/{metric.name}_{end}"] = (gain if metric.higher_is_better else -gain) / (values[key] / size)
    return found


def retention_columns(metric: FrameMetric) -> list[Column]:
    """What a run's retention is called."""
    heading, lead = metric.heading or metric.name.upper(), metric.rank == 1
    return [
        Column(
            f"retention/{metric.name}_{end}",
            f"retention_{metric.name}_{end}",
            f"{heading} kept per {unit}",
            "memory",
            metric.decimals + 1,
            1,
            f"recall above that of the same window without what was brought back, per {about}",
            1.0,
            metric.unit,
            5 if lead else 7,
        )
        for end, (_, _, unit, about) in PRICES.items()
    ]
