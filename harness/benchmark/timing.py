"""Where the time of a chunk goes: a stopwatch for nested parts, and wrappers that put it around a backbone and a policy."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone, KVSeam
from harness.cache.attention import dense
from harness.cache.bank import KVBank
from harness.cache.stores import PackedStore
from harness.datatypes import KV, Chunk, Condition, Geometry, Plan, Site, Trajectory
from harness.policy import CachePolicy, PolicyWrapper
from harness.rollout import rollout
from harness.worlds.chunks import chunks_of

PARTS: tuple[str, ...] = ("plan", "assembly", "rope", "attention", "write", "network", "commit", "decode")


class Stopwatch:
    """Seconds by part; a part that runs inside another is not counted twice.

    On one CPU thread it reads that thread's CPU time, which other processes do not disturb; on a GPU, wall time after
    waiting for the device; otherwise wall time.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._read = time.thread_time if not self._cuda and torch.get_num_threads() == 1 else time.perf_counter
        self.clock = "CPU time of the thread" if self._read is time.thread_time else "wall time"
        self.start()

    def start(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._part = "assembly"  # what no wrapper claims: assembly, and the loop itself
        self._last = self._now()

    def stop(self) -> None:
        """The chunk has ended: what follows until the next `start` belongs to no part."""
        self._switch("")

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return self._read()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        outer = self._switch(part)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, part: str) -> str:
        now = self._now()
        if self._part:
            self.seconds[self._part] += now - self._last
        self._last, before = now, self._part
        self._part = part
        return before


class TimedPolicy(PolicyWrapper):
    """Times plan, attention and commit. A chunk begins with its plan, so none is planned before the last one is decoded."""

    plans_ahead = False

    def __init__(self, inner: CachePolicy, watch: Stopwatch) -> None:
        self.inner, self.watch = inner, watch

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        self.watch.start()
        with self.watch("plan"):
            return super().plan(chunk, bank)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
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
    ends with its decoding."""

    def __init__(self, inner: Backbone, watch: Stopwatch) -> None:
        self.inner, self.watch = inner, watch
        self.geometry, self.timesteps, self.channels = inner.geometry, inner.timesteps, inner.channels

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
        with self.watch("network"):
            return self.inner.condition(trajectory, chunk)

    def denoise(self, x: Tensor, t: float, condition: Condition, kv: KVSeam) -> Tensor:
        with self.watch("network"):
            return self.inner.denoise(x, t, condition, TimedSeam(kv, self.watch))

    def renoise(self, x0: Tensor, t: float, noise: Tensor) -> Tensor:
        with self.watch("network"):
            return self.inner.renoise(x0, t, noise)

    def noise(self, generator: torch.Generator) -> Tensor:
        with self.watch("network"):
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

    def decode(self, latents: Tensor) -> Tensor:
        with self.watch("decode"):
            frames = self.inner.decode(latents)
        self.watch.stop()
        return frames


@dataclass(frozen=True)
class ChunkTime:
    """Seconds of one chunk by part, the rows that it attended to, and the rollout's latents (to see that timing changes
    nothing)."""

    seconds: dict[str, float]
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
    """Time the chunk after `past`, whose chunks only run their clean pass."""
    watch = Stopwatch(backbone.geometry.device)
    out = rollout(TimedBackbone(backbone, watch), TimedPolicy(policy, watch), store, trajectory, seed, past)
    return ChunkTime(watch.seconds, out.stats[-1].attended_rows, out.latents)


def time_contiguous(backbone: Backbone, trajectory: Trajectory, rows: int) -> float:
    """Seconds of the same network over a window of `rows` that somebody has assembled: the least a cache can cost.

    Queries attend to prepared, contiguous keys and values; nothing is rotated, written or selected.
    """
    g: Geometry = backbone.geometry
    rng = torch.Generator(g.device).manual_seed(0)
    k, v = (torch.randn(g.layers, 1, rows, g.heads, g.head_dim, generator=rng, device=g.device).to(g.dtype) for _ in range(2))
    chunk, cpu = chunks_of(trajectory, g)[-1], torch.Generator().manual_seed(0)
    backbone.begin(trajectory)
    watch = Stopwatch(g.device)
    with torch.no_grad():
        watch.start()
        condition = backbone.condition(trajectory, chunk)
        x = backbone.noise(cpu)
        for t in (*backbone.timesteps, 0.0):
            x = backbone.denoise(x, t, condition, _Contiguous(k, v))
        backbone.decode(x[0])
        watch.stop()
    return sum(watch.seconds.values())


class _Contiguous:
    """A seam whose window lies ready: what every policy is measured against."""

    def __init__(self, k: Tensor, v: Tensor) -> None:
        self._k, self._v = k, v

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dense(q, self._k[layer], self._v[layer])

    def cross(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return dense(q, k, v)
