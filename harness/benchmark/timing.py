"""Where the time of a chunk goes: a stopwatch for nested parts, and wrappers that put it around a backbone and a policy."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone, KVSeam
from harness.benchmark.table import PARTS
from harness.cache.attention import dense
from harness.cache.bank import KVBank
from harness.cache.stores import PackedStore
from harness.datatypes import KV, Chunk, Condition, Plan, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.rollout import rollout
from harness.trajectory import Trajectory

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


class TimedPolicy(PolicyWrapper):
    """Times plan, attention and commit. None is planned before the last one is decoded, where that one ends."""

    plans_ahead = False

    def __init__(self, inner: CachePolicy, watch: Stopwatch, ready: ReadyWindow) -> None:
        self.inner, self.watch, self.ready = inner, watch, ready

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        self.watch.begin()
        self.ready.sketching = chunk.probing
        with self.watch("plan"):
            return super().plan(chunk, bank)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if not site.cross:
            self.ready.keep(site.layer, k, v)
        with self.watch("network" if site.cross else "attention"):
            return super().attend(q, k, v, site)

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        with self.watch("commit"):
            super().commit(chunk, kv, bank)


class TimedSeam:
    """Times what self-attention's seam does besides attending; cross-attention is part of the network."""

    def __init__(self, inner: KVSeam, watch: Stopwatch) -> None:
        self.inner, self.watch = inner, watch

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with self.watch("write"):
            return self.inner(layer, q, k, v)

    def cross(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.inner.cross(layer, q, k, v)


class TimedBackbone(Backbone):
    """Times the network, RoPE, decoding, and what the seam does besides (writing the chunk's rows into the window). A chunk
    begins with its noise or its condition and ends with its decoding. compared: the chunk whose passes have one over a ready window beside them; a probe
    before it is planned, and chunks that are encoded again for it, have none: they are what the policy costs."""

    def __init__(self, inner: Backbone, watch: Stopwatch, ready: ReadyWindow, compared: int) -> None:
        self.inner, self.watch, self.ready, self.compared = inner, watch, ready, compared
        self.geometry, self.timesteps, self.channels = inner.geometry, inner.timesteps, inner.channels
        self.arm, self.repeatable, self.remembers, self.jumps = inner.arm, inner.repeatable, inner.remembers, inner.jumps
        self._compared: Condition | None = None  # what the compared chunk's passes are given

    def begin(self, trajectory: Trajectory) -> None:
        self.inner.begin(trajectory)

    @property
    def state_bytes(self) -> int:
        return self.inner.state_bytes

    def state(self) -> dict:
        return self.inner.state()

    def restore(self, state: dict) -> None:
        self.inner.restore(state)

    def condition(self, trajectory: Trajectory, chunk: Chunk) -> Condition:
        self.watch.begin()
        with self.watch(OUTSIDE):
            condition = self.inner.condition(trajectory, chunk)
        if chunk.index == self.compared:
            self._compared = condition
        return condition

    def denoise(self, x: Tensor, t: float, condition: Condition, kv: KVSeam) -> Tensor:
        def real() -> Tensor:
            with self.watch("network"):
                return self.inner.denoise(x, t, condition, TimedSeam(kv, self.watch))

        self.ready.active = condition is self._compared and not self.ready.sketching
        if not self.ready.active:
            return real()
        if t == 0.0 and not self.inner.repeatable:
            self.ready.assume_clean_pass(len(self.timesteps))
            return real()
        return self.ready.beside(lambda: self.inner.denoise(x, t, condition, self.ready), real)

    def renoise(self, x0: Tensor, t: float, noise: Tensor) -> Tensor:
        with self.watch(OUTSIDE):
            return self.inner.renoise(x0, t, noise)

    def noise(self, generator: torch.Generator) -> Tensor:
        self.watch.begin()
        with self.watch(OUTSIDE):
            return self.inner.noise(generator)

    def rope(self, positions: Tensor) -> Callable[..., Tensor]:
        with self.watch("rope"):
            rotate = self.inner.rope(positions)

        def timed(x: Tensor, out: Tensor | None = None) -> Tensor:
            with self.watch("rope"):
                return rotate(x, out=out)

        return timed

    def encode(self, frames: Tensor) -> Tensor:
        return self.inner.encode(frames)

    def depth(self, latents: Tensor) -> Tensor | None:
        return self.inner.depth(latents)

    def decode(self, latents: Tensor) -> Tensor:
        with self.watch("decode"):
            frames = self.inner.decode(latents)
        self.watch.stop()
        return frames


@dataclass(frozen=True)
class ChunkTime:
    """Seconds of one chunk by part, and of the same chunk over a ready window; the rows that it attended to, and the rollout's
    latents (to see that timing changes nothing)."""

    seconds: dict[str, float]
    contiguous: float
    rows: int
    latents: Float[Tensor, "f s c"]

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def overhead(self) -> float:
        """What a better cache could save: all that is neither attention, RoPE, the network nor the codec."""
        return sum(self.seconds[part] for part in ("plan", "assembly", "write", "commit"))


def time_last_chunk(backbone: Backbone, policy: CachePolicy, store: PackedStore, trajectory: Trajectory, seed: int, past: Float[Tensor, "f s c"]) -> ChunkTime:
    """Time the chunk after `past`, whose chunks only run their clean pass. Garbage is collected before and not meanwhile."""
    watch = Stopwatch(backbone.geometry.device)
    ready = ReadyWindow(watch)
    timed = TimedBackbone(backbone, watch, ready, len(past) // backbone.geometry.chunk)
    gc.collect()
    gc.disable()
    try:
        out = rollout(timed, TimedPolicy(policy, watch, ready), store, trajectory, seed, past)
    finally:
        gc.enable()
    outside = watch.seconds.pop(OUTSIDE)
    contiguous = ready.seconds + outside + watch.seconds["decode"]  # what any cache needs too
    return ChunkTime(watch.seconds | {"network": watch.seconds["network"] + outside}, contiguous, out.stats[-1].attended_rows, out.latents)
