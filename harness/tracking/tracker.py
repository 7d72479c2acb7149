"""Experiment trackers: three calls. Tracking never fails a run, never asks anything, and waits a bounded time."""

import importlib.util
import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Protocol

from harness.results.live import rows_since
from harness.results.run_folder import ID, RunFolder
from harness.system.files import write_once

log = logging.getLogger(__name__)
PICTURES = {"frames.png": "picture/frames", "chunks.png": "picture/chunks"}  # of a run folder, and what trackers call them
PERIOD = 1.0  # seconds between two looks at the run folder
BEGIN = 60.0  # seconds at most that the end of a run waits for the tracker's begin
BROKEN_OFF = 3.0  # and that one which failed or was stopped waits for the tracker, twice: who sent a SIGTERM may kill after 10


@dataclass(frozen=True)
class Label:
    """How a tracker files a run. group: its experiment or sweep."""

    group: str
    name: str
    tags: tuple[str, ...] = ()
    notes: str = ""


class Tracker(Protocol):
    """`begin` may be called in a thread; `log` after it, in the same thread; `finish` once, when that thread has ended."""

    def begin(self) -> None:
        """Open the run, or go on with the one that a killed process left."""
        ...

    def log(self, row: dict[str, float]) -> None:
        """A point of the live curves, or running means over the trajectories that are finished."""
        ...

    def finish(self, results: dict | None) -> str | None:
        """Tell all that is known at the end (None: the run failed). Returns where it can be looked at, None where it was not told."""
        ...


def tracker_of(logger: str, folder: RunFolder, config: dict, label: Label, resumed: bool) -> Tracker:
    """logger: as the setting says, but none. config: the settings, flat. resumed: whether an earlier process began this run.

    Raises ValueError for a tracker that is not installed.
    """
    if logger == "trackio":
        if importlib.util.find_spec("trackio") is None:
            raise ValueError("logger=trackio needs the package trackio: pip install -e '.[trackio]'")
        from harness.tracking.trackio_run import TrackioTracker

        return TrackioTracker(folder, config, label)
    from harness.tracking.wandb_run import WandbTracker  # takes a second

    return WandbTracker(folder, config, logger, label, resumed)


@contextmanager
def followed(tracker: Tracker | None, folder: RunFolder) -> Iterator[None]:
    """Tell the tracker of what runs within the block; that it failed, if it does."""
    if tracker is None:
        yield
        return
    follower = Follower(tracker, folder)
    try:
        yield
    except BaseException:
        follower.end(BROKEN_OFF)
        last = threading.Thread(target=tracker.finish, args=(None,), daemon=True)
        last.start()
        last.join(BROKEN_OFF)
        raise
    follower.end(BEGIN)


class Follower:
    """Tells a tracker of a run while it runs, in a thread beside the rollouts. All that it knows it reads in the run folder."""

    def __init__(self, tracker: Tracker, folder: RunFolder) -> None:
        self.tracker, self._folder = tracker, folder
        self._over = threading.Event()
        self._values = folder.values()
        self._offset = rows_since(folder.path, 0)[1]  # what an earlier process wrote is told already
        self._thread = threading.Thread(target=self._follow, name="tracker", daemon=True)
        self._thread.start()

    def end(self, patience: float) -> None:
        """Tell what is left and stop. patience: seconds at most."""
        self._over.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            log.warning("the tracker has not begun within %.0f s of the end; it is told then alone", patience)

    def _follow(self) -> None:
        self.tracker.begin()
        while not self._over.wait(PERIOD):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        rows, self._offset = rows_since(self._folder.path, self._offset)
        for row in rows:
            if "point" in row:
                self.tracker.log(row["point"])
            elif not row.get("error"):
                self._values[row["name"]] = row["values"]
                self.tracker.log({"live/trajectories": len(self._values), **running_means(self._values)})


def folder_id(folder: Path) -> str:
    """Of a run at its tracker: it stays with the run's folder."""
    file = folder / ID
    if not file.exists():
        write_once(file, secrets.token_hex(4))
    return file.read_text().strip()


def running_means(values: dict[str, dict[str, float]]) -> dict[str, float]:
    """Means of the qualities over the trajectories so far, under their own names, so that a sweep can stop a bad point early."""
    keys = {k for row in values.values() for k in row if k.startswith("quality/")}
    return {k: fmean([row[k] for row in values.values() if k in row]) for k in sorted(keys)}
