"""The other processes of one rollout: who starts them, and what happens when one dies."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait

import torch
import torch.distributed as dist

from harness.evaluation.ranks import follow, join, outer_rank, ranks_of
from harness.system.stopping import end_processes, exit_on_signals

GRACE = 15.0  # seconds in which rank 0 notices by itself that another is gone; a GPU's collectives may wait for ever


@contextmanager
def together(settings: dict, packages: Sequence[str]) -> Iterator[None]:
    """Within it, rank 0 has its companions. Raises ValueError, with what is known of it, when one of them ends early."""
    size, threads = ranks_of(settings), torch.get_num_threads()
    outer = outer_rank(size)
    if size == 1:
        yield
        return
    companions = Companions(settings, packages) if outer is None else None
    try:
        if outer is not None:
            join(settings, outer, None)
        yield
    except RuntimeError as error:
        if companions is None:
            raise
        raise companions.blamed(error) from error
    finally:
        if companions:
            companions.end()
        elif dist.is_initialized():
            dist.destroy_process_group()
        torch.set_num_threads(threads)


class Companions:
    """Ranks 1 and up, started here and watched."""

    def __init__(self, settings: dict, packages: Sequence[str]) -> None:
        self._size, self._over = ranks_of(settings), threading.Event()
        self._folder = tempfile.mkdtemp(prefix="worldkv-ranks-")
        context = multiprocessing.get_context("spawn")
        self._lines: list[Connection] = []
        self._processes = []
        for rank in range(1, self._size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_companion, args=(theirs, self._folder, rank, settings, list(packages)), daemon=True)
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)
        try:
            for line in self._lines:
                line.recv()  # it has imported all it needs
            threading.Thread(target=self._watch, daemon=True).start()
            join(settings, 0, self._folder)
        except EOFError as error:
            failure = self.blamed(error)
            self.end()
            raise failure from error
        except BaseException:
            self.end()
            raise

    def blamed(self, error: Exception) -> Exception:
        """The error that tells of a companion that is gone, where one is; else the error that rank 0 met."""
        wait([p.sentinel for p in self._processes], timeout=2.0)
        return ValueError(self._told()) if any(p.exitcode for p in self._processes) else error

    def _told(self) -> str:
        """Of the rank that ended first: of several, one that a signal ended, since the others then follow."""
        rank = min((i for i, p in enumerate(self._processes) if p.exitcode), key=lambda i: ((self._processes[i].exitcode or 0) > 0, i), default=0)
        status, line = self._processes[rank].exitcode or 0, self._lines[rank]
        why = f"signal {-status}" if status < 0 else f"exit status {status}"
        with suppress(EOFError, OSError):
            while line.poll():
                why = str(line.recv())
        return f"rank {rank + 1} of {self._size} has ended ({why}); finished trajectories are kept, the same command goes on, with any backbone.parallel"

    def _watch(self) -> None:
        wait([p.sentinel for p in self._processes])
        if self._over.wait(GRACE):
            return
        print(f"error: {self._told()}", file=sys.stderr, flush=True)
        for process in self._processes:
            process.kill()
        os._exit(1)  # rank 0 waits for the others, which nothing else ends

    def end(self) -> None:
        self._over.set()
        for line in self._lines:
            line.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        end_processes(self._processes)
        shutil.rmtree(self._folder, ignore_errors=True)


def _companion(line: Connection, folder: str, rank: int, settings: dict, packages: list[str]) -> None:
    """The process of a rank that rank 0 started."""
    exit_on_signals()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; rank 0 ends the others
    warnings.filterwarnings("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    line.send("ready")
    try:
        join(settings, rank, folder)
        follow(settings, packages, rank)
        with suppress(EOFError):
            line.recv()  # rank 0 is still scoring and writing
    except Exception as error:  # noqa: BLE001
        with suppress(OSError):
            line.send(f"{type(error).__name__}: {error}".splitlines()[0])
        time.sleep(1.0)  # rank 0 may meet the same error, and should be the one to tell
        os._exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
