"""Recall probes: before chosen chunks a fork of the rollout jumps back to an earlier view, makes one chunk there and is dropped.

The recent window hardly shows that view from a gap of some chunks on (sliding windows of 5 past chunks still do at a gap of 4), so what comes out is memory.
The rollout itself does not change by a bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.backbone import Backbone
from harness.datatypes import Geometry
from harness.evaluation.audit import Auditor, DoesNotApply, Substitute, SubstitutedPolicy
from harness.evaluation.beside import Aside, aside
from harness.outcome import ChunkStats, ProbeView
from harness.session import Session
from harness.settings.main_job import Probes
from harness.trajectory import Trajectory
from harness.worlds.chunks import chunk_at, chunk_count
from harness.worlds.covisibility import CoVisibility
from harness.worlds.ground import Ground
from harness.worlds.poses import distances

SEEN = 0.5  # a view counts as seen where at least this share of it is shown
SHOWN_FIRST = 0.25  # of a view that the first chunk shows: no target, for most windows keep that chunk
NEAR = 1.0  # metres; where the world has no truth, a view is seen from no farther than this, turned by less than half the field of view


NO_PROBES = Probes(0)
NO_AUDIT = Auditor()


@dataclass(frozen=True)
class Probe:
    """chunk: before which the rollout is forked. target: the chunk whose views the fork shows again. gap: chunks since they were last seen.
    aside: where the fork looks instead, beside the target; None: at the very same poses."""

    chunk: int
    target: int
    gap: int
    aside: Aside | None = field(default=None, compare=False)


def cannot(backbone: Backbone, probes: Probes, ground: Ground | None, changing: bool = False) -> str:
    """Why there are no such probes of a backbone in a world; empty where there are. changing: whether things change there along a trajectory."""
    if changing:
        return "things change in this world along a trajectory, so that an earlier view is not what is there now"
    if probes.beside and ground is None:
        return "this world does not say where one may stand beside an earlier view; use probes.metres=0 probes.degrees=0, or world=houses or rooms"
    if not backbone.jumps:
        return f"{type(backbone).__name__} is steered by moves and cannot jump to an earlier view"
    try:
        backbone.state()
    except ValueError as error:
        return str(error)
    return ""


def schedule(path: Trajectory, g: Geometry, probes: Probes, ground: Ground | None = None) -> list[Probe]:
    """The probes of a trajectory: a pure function of its path, the same for every policy. Chunks that are given are forked too: what such a probe
    shows is generated, in the context of true views alone, so that nothing but the memory can err.

    Every gap gets its share as long as there are views that were last seen so long ago (and less than the next gap); they are
    spread over the chunks. A chunk is forked once, and no target is shown by the first chunk, which nearly every policy keeps as its
    sink. ground: of the world, for probes beside earlier views; a target that has no free place with its view beside it, or whose view
    from there was seen more lately, is left out.
    """
    total = chunk_count(path, g)
    if not probes.count or total < 2:
        return []
    share = shares(path, g, total).numpy()
    shown, kept = share >= SEEN, share[:, 0] >= SHOWN_FIRST
    last = np.maximum.accumulate(np.where(shown, np.arange(total), -1), 1)  # [target, chunk]: the last chunk so far that showed the target
    first = 1 if g.stride_px > 1 else 0  # a causal codec's first chunk has fewer video frames than the others
    targets = [t for t in range(first, total) if shown[t].argmax() == t and not kept[t]]  # first visits
    chosen: dict[int, Probe] = {}
    each = -(-probes.count // len(probes.gaps))
    for low, high in zip(probes.gaps, [*probes.gaps[1:], total + 1], strict=True):
        found = []
        for chunk in (c for c in range(1, total) if c not in chosen):
            gaps = [(t, chunk - int(last[t, chunk - 1])) for t in targets if t < chunk]
            if fits := [Probe(chunk, t, gap) for t, gap in gaps if low <= gap < high]:
                found.append(fits[len(fits) // 2])
        if probes.beside:
            assert ground is not None, "`cannot` has said so"
            found = [p for p in (_beside(path, g, ground, probes, p) for p in found) if p and low <= p.gap < high]
        take = min(each, len(found))
        for i in range(take):
            probe = found[(2 * i + 1) * len(found) // (2 * take)]
            chosen[probe.chunk] = probe
    return sorted(chosen.values(), key=lambda p: p.chunk)[: probes.count]


def _beside(path: Trajectory, g: Geometry, ground: Ground, probes: Probes, probe: Probe) -> Probe | None:
    """The same probe from a place beside its target, and the gap of what it sees from there."""
    frames = range(g.frames_px(probe.target * g.chunk), g.frames_px((probe.target + 1) * g.chunk))
    middles = _middles(g, probe.chunk)
    place = aside(path, ground, frames, middles, probes.metres, probes.degrees, SEEN, f"{path.name}/{probe.chunk}/{probe.target}")
    return place and Probe(probe.chunk, probe.target, probe.chunk - place.seen, place)


def _middles(g: Geometry, chunks: int) -> list[int]:
    """The video frame in the middle of each chunk."""
    return [(i * g.chunk + g.chunk // 2) * g.stride_px for i in range(chunks)]


def seen(path: Trajectory, g: Geometry, total: int) -> Bool[Tensor, "c c"]:
    """Whether the middle view of each chunk is seen from the middle of each other chunk."""
    return shares(path, g, total) >= SEEN


def shares(path: Trajectory, g: Geometry, total: int) -> Float[Tensor, "c c"]:
    """How much of the middle view of each chunk is seen from the middle of each other chunk: by true co-visibility where the world has it, else by how
    far the view has turned, and nothing from afar."""
    middle = _middles(g, total)
    if path.overlap is not None:
        return path.overlap(middle, middle)
    fx, _, cx, _ = path.intrinsics[0].tolist()
    far, turned = distances(path.c2w[middle], path.c2w[middle])
    view = 2 * torch.rad2deg(torch.atan(torch.tensor(cx / fx)))
    return (1 - turned / view).clamp(min=0) * (far <= NEAR)


class Prober:
    """Carries out the probes of one rollout. ground: of the world, where probes look from beside. auditor: replaces what they bring back, in
    forks of their own. views: what they showed."""

    def __init__(self, probes: Sequence[Probe], ground: Ground | None = None, auditor: Auditor = NO_AUDIT) -> None:
        self._due, self._ground, self._auditor = {p.chunk: p for p in probes}, ground, auditor
        self.views: list[ProbeView] = []

    def before(self, session: Session) -> None:
        """Called before each chunk: fork, look and drop where a probe is due."""
        probe = self._due.get(session.done)
        if probe is None:
            return
        g, path = session.backbone.geometry, session.path
        frames = range(g.frames_px(probe.target * g.chunk), g.frames_px((probe.target + 1) * g.chunk))
        shown, stats = self._look(session, probe, frames)
        audit, unaudited = {}, {}
        for arm, substitute in self._auditor.substitutes(path):
            try:
                audit[arm], _ = self._look(session, probe, frames, substitute, self._auditor.state(arm))
            except DoesNotApply as why:
                unaudited[arm] = str(why)
        here, there = (chunk_at(path, g, i).c2w[:, :3, 3] for i in (probe.chunk - 1, probe.target))
        metres = (here[-1] - there).norm(dim=1).mean().item()
        view = ProbeView(probe.chunk, probe.target, probe.gap, metres, tuple(frames), shown, stats.retrieved, audit=audit, unaudited=unaudited)
        self.views.append(replace(view, aside=(probe.aside.metres, probe.aside.degrees), truth=self._truth(path, probe.aside)) if probe.aside else view)

    def _look(
        self, session: Session, probe: Probe, frames: range, substitute: Substitute | None = None, state: dict | None = None
    ) -> tuple[Float[Tensor, "p 3 y x"], ChunkStats]:
        fork = session.fork(state)
        fork.forced = fork.forced[: fork.done * fork.backbone.geometry.chunk]  # what is given of the chunks to come belongs to the path that is left
        if substitute is not None:
            fork.policy = SubstitutedPolicy(fork.policy, substitute)
        try:
            return self._look_aside(fork, probe.aside) if probe.aside else fork.revisit(frames)
        finally:
            fork.close()

    def _look_aside(self, fork: Session, place: Aside) -> tuple[Float[Tensor, "p 3 y x"], ChunkStats]:
        """With the true co-visibility of the new path, which a policy may ask for."""
        assert self._ground is not None
        path, start = fork.path, fork.backbone.geometry.frames_px(fork.done * fork.backbone.geometry.chunk)
        rows, columns = path.images.shape[-2:]
        truth = CoVisibility(self._ground.scene, path.c2w, path.intrinsics, (rows, columns)).led_on(start, place.c2w, self._intrinsics(path, place))
        return fork.step(place.c2w, overlap=truth, truth=self._truth(path, place))

    def _truth(self, path: Trajectory, place: Aside) -> Float[Tensor, "p 3 y x"]:
        assert self._ground is not None
        rows, columns = path.images.shape[-2:]
        return self._ground.view(place.c2w, self._intrinsics(path, place), (rows, columns)).cpu()

    @staticmethod
    def _intrinsics(path: Trajectory, place: Aside) -> Float[Tensor, "p 4"]:
        return path.intrinsics[:1].expand(len(place.c2w), 4)
