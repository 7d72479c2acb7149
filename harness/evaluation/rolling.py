"""One trajectory of a world under a policy, with its recall probes: what every rank of a rollout does alike."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.evaluation.audit import Auditor, other_memory
from harness.evaluation.kept import Kept
from harness.evaluation.probes import NO_PROBES, Prober, Probes, cannot, schedule
from harness.outcome import ChunkStats, ProbeView, Rollout
from harness.policy import CachePolicy
from harness.rollout import NO_SNAPSHOT, Snapshot, rollout
from harness.trajectory import Trajectory
from harness.worlds.base import World
from harness.worlds.chunks import chunk_count

log = logging.getLogger(__name__)
ALIKE = (FloatingPointError, FileNotFoundError)  # errors of a trajectory that every rank meets


@dataclass(frozen=True)
class Rolled:
    """A trajectory, what was made of it, what its probes saw, and the seconds within `rollout`."""

    trajectory: Trajectory
    rollout: Rollout
    views: list[ProbeView]
    seconds: float


@dataclass
class Roller:
    """chunks: of the trajectory that is being made. kept: what other runs have made of the same trajectories, or will find here."""

    backbone: Backbone
    policy: CachePolicy
    store: PackedStore
    world: World
    seed: int
    snapshot: Snapshot = NO_SNAPSHOT
    probes: Probes = NO_PROBES
    kept: Kept = field(default_factory=Kept)
    chunks: int = 1

    def __post_init__(self) -> None:
        if self.probes.count and (why := cannot(self.backbone, self.probes, self.world.ground(0), self.world.changing)):
            log.warning("no recall probes: %s", why)
            self.probes = NO_PROBES

    def roll(self, index: int, observe: Callable[[str, ChunkStats], None] = lambda name, stats: None) -> Rolled:
        """Raises what `rollout` raises, and what the world does."""
        trajectory = self._trajectory(index)
        name, kept = trajectory.name, self.kept
        ground = self.world.ground(index) if self.probes.beside else None
        g = self.backbone.geometry
        # kept on the host: on the device they would count as memory of the policies that run later
        forced = kept.get("latents", name, lambda: self.backbone.encode(trajectory.images).cpu()).to(g.device)
        total = chunk_count(trajectory, g)
        self.chunks = max(1, min(total, self.snapshot.chunks or total))
        due = kept.get("probes", name, lambda: schedule(trajectory, g, self.probes, ground))
        prober = Prober(due, ground, self._auditor(trajectory, max((p.chunk for p in due), default=0)))
        began = time.perf_counter()
        made = rollout(
            self.backbone,
            self.policy,
            self.store,
            trajectory,
            self.seed,
            forced,
            lambda stats: observe(name, stats),
            self.snapshot,
            prober.before,
        )
        return Rolled(trajectory, made, prober.views, time.perf_counter() - began)

    def _trajectory(self, index: int) -> Trajectory:
        return self.kept.get("trajectory", self.world.names[index], lambda: self.world.trajectory(index))

    def roundtrip(self, trajectory: Trajectory) -> Float[Tensor, "p 3 y x"] | None:
        """What the autoencoder leaves of the true views, where the world has them."""
        truth = trajectory.reference
        return None if truth is None else self.kept.get("round trip", trajectory.name, lambda: self.backbone.roundtrip(truth))

    def _auditor(self, trajectory: Trajectory, chunks: int) -> Auditor:
        """What replaces the memories that probes bring back. chunks: before the last probe. Those of another house are what the same policy keeps
        of the next trajectory (the first one's after the last), of which all that is known is given."""
        if not self.probes.audit or not chunks:
            return Auditor(self.probes.audit)
        blank = self._blank(trajectory)
        if "other" not in self.probes.audit:
            return Auditor(self.probes.audit, blank=blank)
        names = self.world.names
        if len(names) < 2:
            return Auditor(self.probes.audit, why="there is no other trajectory (world.trajectories=1)", blank=blank)
        other = self._trajectory((names.index(trajectory.name) + 1) % len(names))
        latents = self.backbone.encode(other.images if other.reference is None else other.reference)
        kept = other_memory(self.backbone, self.policy, self.store.codec, other, self.seed, latents, chunks)
        return Auditor(self.probes.audit, kept, f"{other.name} has no views beyond those of its first chunk and its newest", blank)

    def _blank(self, trajectory: Trajectory) -> dict | None:
        if not self.backbone.remembers:
            return None
        self.backbone.begin(trajectory)
        return self.backbone.state()
