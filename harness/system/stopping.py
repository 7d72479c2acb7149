"""SIGTERM and Ctrl-C as an exception, so that whatever runs ends as after an error: files closed, half-made ones removed.

`timeout`, `docker stop`, `scancel` and preemption send SIGTERM and look at the exit status.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
CLEARING_UP = 5.0  # seconds that a process has to end after SIGTERM
PATIENCE = 5.0  # seconds in which a repeated signal is taken for the same one; a later one ends the process at once


class Stopped(BaseException):
    """A signal asked this process to end. No KeyboardInterrupt, which Lightning turns into an exit status of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def status(self) -> int:
        """What shells and schedulers expect: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number

    def __str__(self) -> str:
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


@contextmanager
def stoppable() -> Iterator[None]:
    """Within it, signals raise `Stopped` in the main thread; a second one, after a while, ends the process as if nothing was in its way.

    A signal that the caller's shell told us to ignore (a job in the background, `nohup`) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread alone
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    first: list[float] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            raise Stopped(number)
        if time.monotonic() - first[0] > PATIENCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for number in SIGNALS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def exit_on_signals() -> None:
    """For a process that others start and wait for: a signal ends it by SystemExit, without a word, so that it clears up after itself."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


def end_processes(processes: Sequence[BaseProcess]) -> None:
    """Let them clear up after themselves; kill what is still there after a while."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + CLEARING_UP
    for process in processes:
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()
