"""Wrappers that put a stopwatch around a backbone and a policy."""

from collections.abc import Callable

import torch
from torch import Tensor

from harness.backbone import Backbone, KVSeam
from harness.benchmark.stopwatch import OUTSIDE, ReadyWindow, Stopwatch
from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Condition, Plan, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.trajectory import Trajectory


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
