"""What the rollout's processes tell of a run while it runs: a point of the cost curves every few chunks, and every finished trajectory."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from harness.outcome import ChunkStats
from harness.results.live import append
from harness.results.record import Record
from metrics.cost import held

log = logging.getLogger(__name__)


@dataclass
class LiveLog:
    """folder: of the run. every: chunks between two points; 0: none. What cannot be written is left out: no result depends on it."""

    folder: Path
    every: int
    _since: list[ChunkStats] = field(default_factory=list)
    _of: str = ""  # the trajectory that these are of

    def chunk(self, name: str, stats: ChunkStats) -> None:
        """Costs since the last point: means over the generated chunks of one trajectory, and the newest chunk's bytes and unreachable frames."""
        if not self.every or stats.forced:
            return
        if name != self._of and self._since:  # what the trajectory before left
            self._point()
        self._of = name
        self._since.append(stats)
        if len(self._since) >= self.every:
            self._point()

    def _point(self) -> None:
        stats, seconds = self._since[-1], sum(s.seconds for s in self._since)
        row = {
            "live/chunk": stats.chunk,
            "live/fps": sum(s.frames_px for s in self._since) / max(seconds, 1e-9),
            "live/latency_ms": 1000 * seconds / len(self._since),
            "live/stored_bytes": held(stats)["stored_bytes"],
            "live/attended_tokens": sum(s.attended_rows for s in self._since) / len(self._since),
            "live/unreachable_frames": stats.unreachable_frames,
        }
        self._since.clear()
        self._append({"time": time.time(), "name": self._of, "point": row})

    def trajectory(self, record: Record) -> None:
        if self.every:
            self._append({"time": time.time(), "name": record.name, "error": record.error, "values": record.values})

    def _append(self, row: dict) -> None:
        try:
            append(self.folder, row)
        except OSError as error:
            log.debug("%s: %s", self.folder, error)
