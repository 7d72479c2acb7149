"""Work beside the main loop: one thread, in order, and no error is lost."""

import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """One thread that runs what it is given, in order. At most one group of jobs is on its way, so memory stays bounded.

    On Linux the thread has the lowest priority: what the main thread times meanwhile keeps its processor.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background", _lowest_priority)
        self._last: Future[None] | None = None

    def do(self, jobs: Sequence[Callable[[], object]]) -> None:
        """Run `jobs` one after the other; the first error ends them. Waits for the jobs before, and raises what those raised."""
        self.wait()
        self._last = self._pool.submit(_run, jobs)

    def wait(self) -> None:
        """Return when all is done. Raises what the last jobs raised, once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def close(self) -> None:
        """`wait`, and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


def _run(jobs: Sequence[Callable[[], object]]) -> None:
    for job in jobs:
        job()


def _lowest_priority() -> None:
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
