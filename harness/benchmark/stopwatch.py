"""A stopwatch for nested parts of a chunk, and the attention that a ready contiguous window would take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from harness.benchmark.table import PARTS
from harness.cache.attention import dense

OUTSIDE = "outside"  # of the passes: conditions and noise; shown as a part of the network


SWITCHES = 8  # of the watch in a layer of a real pass: in and out of the seam, two rotations, attention


NOTHING = ""  # what is done for the measurement's sake


class Stopwatch:
    """Seconds by part; a part that runs inside another is not counted twice.

    On one CPU thread it reads that thread's CPU time, which other processes do not disturb; on a GPU, wall time after
    waiting for the device; otherwise wall time.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._cuda = device, device.type == "cuda"
        self._read = time.thread_time if not self._cuda and torch.get_num_threads() == 1 else time.perf_counter
        self.clock = "CPU time of the thread" if self._read is time.thread_time else "wall time"
        self.start()

    def begin(self) -> None:
        """A chunk begins, unless it has begun."""
        if self._part == NOTHING:
            self.start()

    def start(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys((*PARTS, OUTSIDE), 0.0)
        self._part = "assembly"  # what no wrapper claims: assembly, and the loop itself
        self._last = self.now()

    def stop(self) -> None:
        """The chunk has ended: what follows until the next `start` belongs to no part."""
        self._switch(NOTHING)

    def now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize(self._device)
        return self._read()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        outer = self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, part: str) -> str:
        now = self.now()
        if self._part:
            self.seconds[self._part] += now - self._last
        self._last, before = now, self._part
        self._part = part
        return before


class ReadyWindow:
    """A seam whose window lies ready: the least that a cache can cost. Queries attend to keys and values that were copied from
    the chunk's first pass, contiguous; nothing is rotated, written or selected.

    active: while the passes run that it is compared with. sketching: while a policy that probes has not planned the chunk yet.
    seconds: of the passes over it. One runs before or after each pass of the chunk, in turn, so that both see the same machine: its
    other work, its clock rate, its caches.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch, self._rows = watch, dict[int, tuple[Tensor, Tensor]]()
        self.active, self.sketching, self.seconds, self._passes = False, False, 0.0, 0

    def keep(self, layer: int, k: Tensor, v: Tensor) -> None:
        if self.active and layer not in self._rows:
            with self._watch(NOTHING):
                self._rows[layer] = (k.clone(memory_format=torch.contiguous_format), v.clone(memory_format=torch.contiguous_format))

    def beside(self, bare: Callable[[], Tensor], real: Callable[[], Tensor]) -> Tensor:
        """Run a pass, which is returned, and time the bare one beside it."""
        self._passes += 1
        if self._passes % 2 == 0:  # the first pass fills the window, so it goes first
            self._time(bare)
            return real()
        out = real()
        self._time(bare)
        return out

    def _time(self, bare: Callable[[], Tensor]) -> None:
        with self._watch(NOTHING):
            begin = self._watch.now()
            bare()
            self.seconds += self._watch.now() - begin

    def assume_clean_pass(self, timesteps: int) -> None:
        """A clean pass that must not run twice costs what the others do."""
        self.seconds *= (timesteps + 1) / timesteps

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for _ in range(SWITCHES // 2):  # on a GPU each waits for the device, which a pass that is timed part by part does before and after its work
            self._watch.now()
        out = dense(q, *self._rows[layer])
        for _ in range(SWITCHES // 2):
            self._watch.now()
        return out

    def cross(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dense(q, k, v)
