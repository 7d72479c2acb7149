"""What wrappers ask of the policy that they are around, and of its plans."""

from dataclasses import replace

from harness.datatypes import Plan
from harness.policy import CachePolicy


def settles(inner: CachePolicy, name: str) -> None:
    """Raises ValueError for a policy that attends to what it keeps without choosing: no chunk is ever settled there, and a bounded bank would bound nothing."""
    if not inner.retrieves:
        raise ValueError(f"{name}: {type(inner).__name__} chooses nothing to bring back, so nothing would be forgotten; wrap a policy that retrieves")


def frames_of(name: str, asked: int | None, policy: CachePolicy) -> int:
    """How many `sink` or `recent` frames there are: as asked, else as the policy says, or the one that it wraps. Raises ValueError where none says."""
    inner = policy
    while asked is None and inner is not None:
        asked, inner = getattr(inner, name, None), getattr(inner, "inner", None)
    if asked is None:
        raise ValueError(f"{type(policy).__name__} does not say how many {name} frames it has; give policy.{name}")
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
