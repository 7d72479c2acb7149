"""Which views of a path are new when they are shown, and which had been seen and left."""

from harness.datatypes import Geometry
from harness.evaluation.probes import seen
from harness.trajectory import Trajectory
from harness.worlds.chunks import chunk_count

MOST = 400  # chunks; pairs of views grow with their square, and at 1,000 take half a minute


def kinds(path: Trajectory, g: Geometry) -> dict[str, list[int]]:
    """Video frames of chunks whose middle view no earlier chunk shows (`novel`: those just before it do not count as long as they have shown it ever
    since) and of those that show a view again that was left in between (`returned`). {} in a world without a truth and for paths of more than `MOST`
    chunks."""
    total = chunk_count(path, g)
    if path.overlap is None or path.reference is None or total > MOST:
        return {}
    shown = seen(path, g, total)
    found: dict[str, list[int]] = {"novel": [], "returned": []}
    for chunk in range(total):
        before = shown[chunk, :chunk].tolist()
        while before and before[-1]:
            before.pop()
        found["returned" if any(before) else "novel"] += range(g.frames_px(chunk * g.chunk), g.frames_px((chunk + 1) * g.chunk))
    return found
