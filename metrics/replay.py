"""Retrieval without a model: what a plan shows of the surface that the next chunk will need, and what it costs to plan."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from metrics import cost
from metrics.column import Column

COLUMNS = (
    Column(
        "replay/surface", "surface", "surface back", "quality", 1, 1,
        "of the surface that some past frame shows and sink and recent frames do not: the share that the window shows", 100.0, "%", 1, difference=True,
    ),
    Column("replay/duplicates", "duplicates", "duplicates", "quality", 1, -1, "chunks brought back that show only what the others show too", 100.0, "%", 4),
    Column("replay/misses", "misses", "misses", "quality", 1, -1, "chunks brought back that show nothing of the view", 100.0, "%", 4),
    Column(
        "replay/lookalikes", "lookalikes", "look-alikes", "quality", 1, -1,
        "chunks brought back from another room that looks like the camera's, and that show nothing of the view", 100.0, "%", 4,
    ),
    Column("replay/stability", "stability", "stability", "quality", 1, 0, "frames that two plans in a row both bring back, of all theirs", 100.0, "%", 5),
    Column("replay/due", "due", "due", "quality", 1, 0, "share of the views that some past frame shows and sink and recent frames do not", 100.0, "%", 6),
    Column("replay/plan_ms", "plan_ms", "plan", "cost", 2, -1, "time of a plan, mean over all chunks", unit="ms", rank=2, timed=True),
    Column("replay/plan_late_ms", "plan_late_ms", "plan, late", "cost", 2, -1, "time of a plan, median of the last tenth of the chunks", unit="ms", timed=True),
    Column("replay/frames", "frames_back", "frames back", "memory", 1, -1, "frames of the window besides sink and recent, mean", rank=3),
    Column("replay/stored", "stored_frames", "frames stored", "memory", 1, -1, "rows that the bank holds at the end, in whole frames", rank=3),
    *(c for c in cost.COLUMNS if c.key == "cost/unreachable_frames"),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What one plan brought back. points: of the chunk's views. due: those that the past shows beyond sink and recent frames, of which
    `found` are shown again. chunks: brought back, of which `duplicates` add nothing to the others, `misses` show nothing of the
    views, and `lookalikes` show nothing and stand where it looks as if they did; None where nothing looks alike."""

    points: int
    due: int
    found: int
    chunks: int
    duplicates: int
    misses: int
    lookalikes: int | None


def found(shown: Bool[Tensor, "f s g"], fixed: Sequence[int], back: Sequence[int], size: int, alike: frozenset[int] | None = None) -> Found:
    """Score a plan. shown: which surface points of the chunk's views each past frame shows. fixed: sink and recent frames. back: the window's others.
    size: frames of a chunk. alike: chunks that stand elsewhere where it looks alike; None: there is no such place.

    Duplicates: the chunks are taken one after the other, each time the one that adds the most; those left when nothing is added any more, and
    that show something of the views at all.
    """
    missing = ~shown[:, :, list(fixed)].any(2)
    others = [f for f in range(shown.shape[2]) if f not in set(fixed)]
    due = missing & shown[:, :, others].any(2)
    chunks = sorted({f // size for f in back})
    views = {c: shown[:, :, [f for f in back if f // size == c]].any(2) for c in chunks}
    misses = [c for c in chunks if not views[c].any()]
    left, rest, used = due.clone(), [c for c in chunks if c not in misses], 0
    while rest:
        gains = [int((views[c] & left).sum()) for c in rest]
        if not max(gains):
            break
        left &= ~views[rest.pop(gains.index(max(gains)))]
        used += 1
    taken = None if alike is None else len(alike & set(misses))
    return Found(due.numel(), int(due.sum()), int(due.sum() - left.sum()), len(chunks), len(chunks) - len(misses) - used, len(misses), taken)


def mean_found(rows: Sequence[Found]) -> dict[str, float]:
    """replay/ columns of one trajectory. Shares are of sums, so that chunks count by how much they need; what never occurred is left out."""
    values = {
        "surface": _share(sum(r.found for r in rows), sum(r.due for r in rows)),
        "due": _share(sum(r.due for r in rows), sum(r.points for r in rows)),
        "duplicates": _share(sum(r.duplicates for r in rows), sum(r.chunks for r in rows)),
        "misses": _share(sum(r.misses for r in rows), sum(r.chunks for r in rows)),
        "lookalikes": _share(sum(r.lookalikes or 0 for r in rows), sum(r.chunks for r in rows if r.lookalikes is not None)),
    }
    return {f"replay/{k}": v for k, v in values.items() if v is not None}


def stability(backs: Sequence[Sequence[int]]) -> dict[str, float]:
    """Of the frames that plans in a row bring back: those that both do over those that either does, mean over the pairs that bring any."""
    pairs = [(set(a), set(b)) for a, b in zip(backs, backs[1:], strict=False) if a or b]
    return {"replay/stability": sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)} if pairs else {}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
