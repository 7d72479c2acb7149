"""What a policy did with the past: for every chunk, the state of each chunk before it, as short text for the page."""

from collections.abc import Sequence
from dataclasses import dataclass

ATTENDED, RETRIEVED, STORED, UNREACHABLE, UNKNOWN = "ARSU?"


@dataclass(frozen=True)
class Trace:
    """One text a chunk, one letter for each chunk before it.

    states: A in the window (sink or recent), R brought back by the selector, S stored and reachable but not chosen, U
    unreachable, ? not recorded. shares: which entry of `levels` (percent of a whole chunk's rows) was attended or stored;
    empty for folders that did not record it.
    """

    states: list[str]
    shares: list[str]
    levels: list[int]


def trace(rows: Sequence[dict]) -> Trace:
    """What became of the past of a rollout, from its chunk rows. Frame lists name latent frames; a chunk counts as attended when any
    frame of it was."""
    if not rows or "attended" not in rows[0]:
        return Trace([], [], [])
    size = int(rows[0]["frames"])
    whole = float(rows[0]["attended_rows"])  # the first chunk attends to itself alone
    recorded = all("stored" in row for row in rows)  # long rollouts leave it out
    states, percents = [], []
    for row in rows:
        attended = _frames(row["attended"])
        chosen = {f // size for f in _frames(row["retrieved"])}
        seen = {f // size for f in attended}
        gone = _unreachable(row, len(set(attended)))
        states.append("".join(_state(c, seen, chosen, gone, size) for c in range(int(row["chunk"]))))
        if recorded:
            taken = _by_chunk(dict(zip(attended, _frames(row["taken"]), strict=True)), size)
            stored = _by_chunk(dict(enumerate(_frames(row["stored"]))), size)
            percents.append([round(100 * (taken if c in seen else stored).get(c, 0) / whole) for c in range(int(row["chunk"]))])
    levels = sorted({p for line in percents for p in line})
    if len(levels) > 60:  # so that a level is one letter
        percents = [[5 * round(p / 5) for p in line] for line in percents]
        levels = sorted({p for line in percents for p in line})
    letters = {p: chr(48 + i) for i, p in enumerate(levels)}
    return Trace(states, ["".join(letters[p] for p in line) for line in percents], levels)


def _state(chunk: int, seen: set[int], chosen: set[int], gone: set[int] | None, size: int) -> str:
    if chunk in chosen:
        return RETRIEVED
    if chunk in seen:
        return ATTENDED
    if gone is None:
        return UNKNOWN
    return UNREACHABLE if all(f in gone for f in range(chunk * size, (chunk + 1) * size)) else STORED


def _unreachable(row: dict, attended: int) -> set[int] | None:
    """The unreachable frames of a chunk. Older folders have their number alone, which is enough when it is all or none."""
    if "unreachable" in row:
        return set(_frames(row["unreachable"]))
    count, past = int(row["unreachable_frames"]), int(row["start"])
    if count == 0:
        return set()
    return set(range(past)) - set(_frames(row["attended"])) if count == past - attended else None


def _by_chunk(rows: dict[int, int], size: int) -> dict[int, int]:
    total: dict[int, int] = {}
    for frame, count in rows.items():
        total[frame // size] = total.get(frame // size, 0) + count
    return total


def _frames(text: str | float) -> list[int]:
    return [int(x) for x in str(text).split()]
