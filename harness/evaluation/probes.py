"""Recall probes: before chosen chunks a fork of the rollout jumps back to an earlier view, makes one chunk there and is dropped.

The recent window shows nothing of that view, so what comes out is memory alone, at any gap. The rollout itself does not change by a bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from harness.backbone import Backbone
from harness.datatypes import Geometry, ProbeView, Trajectory
from harness.session import Session
from harness.worlds.chunks import chunk_at, chunk_count
from harness.worlds.revisits import distances

SEEN = 0.5  # a view counts as seen where at least this share of it is shown
NEAR = 1.0  # metres; where the world has no truth, a view is seen from no farther than this, turned by less than half the field of view


@dataclass(frozen=True)
class Probes:
    """count: forks a trajectory, shared among the gaps. gaps: chunks since the view was last seen, at least; rising."""

    count: int = 8
    gaps: Sequence[int] = (4, 8, 16, 32)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError(f"probes.count={self.count}; give 0 (none) or more")
        if self.count and (not self.gaps or min(self.gaps) < 1 or list(self.gaps) != sorted(set(self.gaps))):
            raise ValueError(f"probes.gaps={list(self.gaps)}; give rising numbers of chunks, each 1 or more, such as [4,8,16,32]")


NO_PROBES = Probes(0)


@dataclass(frozen=True)
class Probe:
    """chunk: before which the rollout is forked. target: the chunk whose views the fork shows again. gap: chunks since they were last seen."""

    chunk: int
    target: int
    gap: int


def cannot(backbone: Backbone) -> str:
    """Why a backbone cannot be probed; empty where it can."""
    if not backbone.jumps:
        return f"{type(backbone).__name__} is steered by moves and cannot jump to an earlier view"
    try:
        backbone.state()
    except ValueError as error:
        return str(error)
    return ""


def schedule(path: Trajectory, g: Geometry, probes: Probes, given: int) -> list[Probe]:
    """The probes of a trajectory: a pure function of its path, the same for every policy. given: chunks that are not generated.

    Every gap gets its share as long as there are views that were last seen so long ago (and less than the next gap); they are
    spread over the chunks. A chunk is forked once.
    """
    total = chunk_count(path, g)
    if not probes.count or total < 2:
        return []
    shown = seen(path, g, total).numpy()
    last = np.maximum.accumulate(np.where(shown, np.arange(total), -1), 1)  # [target, chunk]: the last chunk so far that showed the target
    first = 1 if g.stride_px > 1 else 0  # a causal codec's first chunk has fewer video frames than the others
    targets = [t for t in range(first, total) if shown[t].argmax() == t]  # first visits
    chosen: dict[int, Probe] = {}
    share = -(-probes.count // len(probes.gaps))
    for low, high in zip(probes.gaps, [*probes.gaps[1:], total + 1], strict=True):
        found = []
        for chunk in (c for c in range(max(given, 1), total) if c not in chosen):
            gaps = [(t, chunk - int(last[t, chunk - 1])) for t in targets if t < chunk]
            if fits := [Probe(chunk, t, gap) for t, gap in gaps if low <= gap < high]:
                found.append(fits[len(fits) // 2])
        take = min(share, len(found))
        for i in range(take):
            probe = found[(2 * i + 1) * len(found) // (2 * take)]
            chosen[probe.chunk] = probe
    return sorted(chosen.values(), key=lambda p: p.chunk)[: probes.count]


def seen(path: Trajectory, g: Geometry, total: int) -> Bool[Tensor, "c c"]:
    """Whether the middle view of each chunk is seen from the middle of each other chunk: by true co-visibility where the world has it."""
    middle = [(i * g.chunk + g.chunk // 2) * g.stride_px for i in range(total)]
    if path.overlap is not None:
        return path.overlap(middle, middle) >= SEEN
    fx, _, cx, _ = path.intrinsics[0].tolist()
    far, turned = distances(path.c2w[middle])
    return (far <= NEAR) & (turned <= torch.rad2deg(torch.atan(torch.tensor(cx / fx))).item())


class Prober:
    """Carries out the probes of one rollout. views: what they showed."""

    def __init__(self, probes: Sequence[Probe]) -> None:
        self._due = {p.chunk: p for p in probes}
        self.views: list[ProbeView] = []

    def before(self, session: Session) -> None:
        """Called before each chunk: fork, look and drop where a probe is due."""
        probe = self._due.get(session.done)
        if probe is None:
            return
        g, path = session.backbone.geometry, session.path
        frames = range(g.frames_px(probe.target * g.chunk), g.frames_px((probe.target + 1) * g.chunk))
        fork = session.fork()
        try:
            shown, stats = fork.revisit(frames)
        finally:
            fork.close()
        here, there = (chunk_at(path, g, i).c2w[:, :3, 3] for i in (probe.chunk - 1, probe.target))
        metres = (here[-1] - there).norm(dim=1).mean().item()
        self.views.append(ProbeView(probe.chunk, probe.target, probe.gap, metres, tuple(frames), shown, stats.retrieved))
