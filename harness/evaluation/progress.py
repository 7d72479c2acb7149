"""Progress where there is no terminal: a line every so often, so that the log of a long run says where it is."""

import time
from collections.abc import Callable

import lightning as L

from harness.evaluation.runner import EvalModule
from harness.outcome import ChunkStats

EVERY = 30.0  # seconds between two lines; the first chunk has one of its own


class ProgressLines(L.Callback):
    """One line a time: trajectory, chunk, FPS, time left. Works in every process that Lightning starts; each tells of its own share.

    total: trajectories of this run. done: those that have a record. say: takes a line.
    """

    def __init__(self, total: int, done: int, say: Callable[[str], None]) -> None:
        self.total, self.done, self.say = total, done, say
        self._finished, self._began, self._next = 0, 0.0, 0.0
        self._chunks: Callable[[], int] = _one

    def on_predict_start(self, trainer: L.Trainer, module: EvalModule) -> None:
        self._share = -(-(self.total - self.done) // trainer.world_size)
        self._who = f"process {trainer.global_rank}: " if trainer.world_size > 1 else ""
        self._began, self._chunks = time.monotonic(), lambda: module.chunks

    def observe(self, name: str, stats: ChunkStats) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        chunks = self._chunks()
        made = self._finished + (stats.chunk + 1) / chunks
        left = (now - self._began) / made * (self._share - made)
        kind = "given" if stats.forced else f"{stats.frames_px / stats.seconds:.1f} fps"
        so_far = f"{self.done + self._finished}/{self.total} trajectories" if not self._who else f"{self._finished}/{self._share} of its trajectories"
        self.say(f"{self._who}{so_far}, {name} chunk {stats.chunk + 1}/{chunks}: {kind}, about {clock(left)} left")

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._finished += 1


def say(line: str) -> None:
    print(line, flush=True)


def clock(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _one() -> int:
    return 1
