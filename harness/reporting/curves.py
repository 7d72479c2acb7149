"""Cost over the rollout: what a generated chunk took and held, of the same trajectories from the first point to the last."""

from collections.abc import Callable, Sequence
from statistics import mean, median

Row = dict  # of a chunk, see evaluation.runner.chunk_row
PARTS = ("plan", "assemble", "passes", "commit", "decode")


def seconds(row: Row, parts: Sequence[str] = PARTS) -> float:
    return sum(row.get(f"seconds_{part}", 0.0) for part in parts)


OVER_ROLLOUT: dict[str, Callable[[Row], float]] = {  # a column's key -> what it is of one chunk
    "cost/fps_mean": lambda row: row["frames_px"] / max(1e-9, seconds(row)),
    "cost/stored_bytes": lambda row: row["stored_bytes"],
    "cost/attended_tokens": lambda row: row["attended_rows"],
}


def shared_chunks(trajectories: Sequence[list[Row]]) -> tuple[int, dict[int, list[Row]]]:
    """How many trajectories, and their rows by the chunk's first latent frame.

    Trajectories differ in length and in what is given. A curve over all of them would change its population where one ends,
    and rise or fall for that reason alone. So one set of trajectories is taken, and the frames that all of it generated: the set
    that keeps the most rows, of equal ones the larger.
    """
    by_start: dict[int, dict[int, Row]] = {}
    for who, rows in enumerate(trajectories):
        for row in rows:
            if not row["forced"]:
                by_start.setdefault(int(row["start"]), {})[who] = row
    sets = {frozenset(rows) for rows in by_start.values()}
    kept = {chosen: [x for x in sorted(by_start) if chosen <= by_start[x].keys()] for chosen in sets}
    best = max(sets, key=lambda chosen: (len(chosen) * len(kept[chosen]), len(chosen), sorted(chosen)), default=frozenset())
    return len(best), {x: [by_start[x][who] for who in sorted(best)] for x in kept.get(best, [])}


def over_rollout(trajectories: Sequence[list[Row]]) -> tuple[int, dict[str, list[float]]]:
    """How many trajectories, and over them the medians of `OVER_ROLLOUT` by first latent frame (key "frame")."""
    n, rows = shared_chunks(trajectories)
    return n, {"frame": [float(x) for x in rows]} | {key: [median(value(r) for r in rows[x]) for x in rows] for key, value in OVER_ROLLOUT.items()}


def means(trajectories: Sequence[list[Row]]) -> list[dict[str, float]]:
    """A row for every point, for W&B: costs and frames of the window, averaged over the trajectories. Bytes over all layers."""
    n, by_start = shared_chunks(trajectories)
    found = []
    for start, rows in by_start.items():

        def average(value: Callable[[Row], float], rows: list[Row] = rows) -> float:
            return mean(value(row) for row in rows)

        total = average(seconds)
        aside = average(lambda row: seconds(row, ("plan", "assemble", "commit")))
        bytes_ = [k for k in rows[0] if k in ("window_bytes", "bytes_moved", "stored_bytes", "peak_bytes") or k.startswith("bank_bytes")]
        found.append(
            {
                "frame": start,
                "cost/trajectories": n,
                "cost/fps": average(lambda row: row["frames_px"]) / total,
                "cost/latency_ms": 1000 * total,
                "cost/memory_ms": 1000 * aside,
                "cost/attended_tokens": average(lambda row: row["attended_rows"]),
                **{f"cost/{k}": average(lambda row, k=k: row[k]) for k in bytes_},
                "policy/unreachable_frames": average(lambda row: row["unreachable_frames"]),
                **{f"policy/{k}_frames": average(lambda row, k=k: len(row[k].split())) for k in ("retrieved", "attended")},
            }
        )
    return found
