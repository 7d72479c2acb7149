"""What wrappers ask of the policy that they are around, and of its plans."""

from dataclasses import replace

from harness.datatypes import Plan
from harness.policy import CachePolicy


def check_retrieves(inner: CachePolicy, name: str) -> None:
    """Raises ValueError for a policy whose plans do not say what they bring back: without that no chunk would ever be settled, and a bounded bank would
    bound nothing."""
    if not inner.retrieves:
        raise ValueError(f"{name}: {type(inner).__name__} does not say what it brings back (`retrieves`), so nothing would be forgotten; wrap another policy")


def frames_of(policy: CachePolicy, field: str, asked: int | None) -> int:
    """How many `sink` or `recent` frames a policy has (field): as asked, else as it says, or the one that it wraps. Raises ValueError where none says."""
    inner = policy
    while asked is None and inner is not None:
        asked, inner = getattr(inner, field, None), getattr(inner, "inner", None)
    if asked is None:
        raise ValueError(f"{type(policy).__name__} does not say how many {field} frames it has; give policy.{field}")
    return asked


def settled(plan: Plan, last: int, start: int, size: int) -> list[int]:
    """Chunks after chunk `last` and before frame `start` of which a plan shows nothing but what it brings back: they are neither sink nor recent,
    whether or not they could come back."""
    fixed, ends = set(plan.frames) - set(plan.retrieved), range((last + 2) * size - 1, start, size)
    return [end // size for end in ends if not any(f in fixed for f in range(end + 1 - size, end + 1))]


def numbered_from_zero(plan: Plan, start: int) -> Plan:
    """The plan with the earliest of its positions at 0, so that chunks that are encoded again serve as long as the plan before them stays.
    start: of the chunk. A plan of absolute positions stays as it is."""
    if not plan.times:
        return plan
    first = min(plan.times)
    return replace(plan, times=tuple(t - first for t in plan.times), start=(start if plan.start is None else plan.start) - first)
