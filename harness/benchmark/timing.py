"""Where the time of a chunk goes: a stopwatch for nested parts, and wrappers that put it around a backbone and a policy."""

import gc
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.benchmark.stopwatch import OUTSIDE, ReadyWindow, Stopwatch
from harness.benchmark.timed import TimedBackbone, TimedPolicy
from harness.cache.stores import PackedStore
from harness.policy import CachePolicy
from harness.rollout import rollout
from harness.trajectory import Trajectory


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
