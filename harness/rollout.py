"""One trajectory under one policy: a loop over `Session.step`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.outcome import ChunkStats, Rollout
from harness.policy import CachePolicy
from harness.session import Session
from harness.snapshot.saved_state import check_savable
from harness.snapshot.snapshot import find_snapshot
from harness.system.files import file_name
from harness.trajectory import Trajectory
from harness.worlds.chunks import chunk_count


@dataclass(frozen=True)
class Snapshot:
    """save: a folder for a snapshot of every trajectory at its end. load: such a folder, or one trajectory's in it, to go on
    from. chunks: stop after so many. about: the settings that a snapshot belongs to, by name; one saved under other settings
    is refused."""

    save: Path | None = None
    load: Path | None = None
    chunks: int | None = None
    about: Mapping[str, object] = field(default_factory=dict)


NO_SNAPSHOT = Snapshot()


def rollout(
    backbone: Backbone,
    policy: CachePolicy,
    store: PackedStore,
    trajectory: Trajectory,
    seed: int,
    forced: Float[Tensor, "f s c"] | None = None,
    observe: Callable[[ChunkStats], None] = lambda stats: None,
    snapshot: Snapshot = NO_SNAPSHOT,
    before: Callable[[Session], None] = lambda session: None,
) -> Rollout:
    """Generate a trajectory under a policy. Chunks within `forced` latents only run their clean pass.

    before: sees the session before each chunk; it may fork it, and must not step it. snapshot: whether to go on from a saved
    session, to stop early and to save. The result has the saved chunks too.
    Raises FloatingPointError when the model produces NaN or infinity, ValueError when trajectory and backbone disagree.
    """
    g = backbone.geometry
    total = chunk_count(trajectory, g)
    if total == 0:
        raise ValueError(f"{trajectory.name}: {len(trajectory.c2w)} video frames are less than one chunk of {g.chunk} latent frames; use a longer trajectory")
    total = min(total, snapshot.chunks or total)
    if snapshot.load is None:
        session = Session.begin(backbone, policy, store, trajectory, seed, forced, total * g.chunk)
    else:
        folder = find_snapshot(snapshot.load, trajectory.name)
        session = Session.open(folder, backbone, policy, store, trajectory, seed, forced, total * g.chunk, snapshot.about)
        if session.done >= total:
            raise ValueError(f"the snapshot {folder} holds {session.done} chunks, this rollout ends after {total}; continue it along a longer trajectory")
    if snapshot.save is not None:
        backbone.state()  # what cannot be saved says so now, and not at the end
    while session.done < total:
        before(session)
        observe(session.step()[1])
        if snapshot.save is not None:
            check_savable(session)  # as above: some keep what cannot be saved from a later chunk on
    if snapshot.save is not None:
        session.save(snapshot.save / file_name(trajectory.name), snapshot.about)
    return session.rollout()
