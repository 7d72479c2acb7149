"""One trajectory under one policy without a model: plan, commit, plan. And what its plans show, by the world's own geometry."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import mean, median

import torch
from jaxtyping import Bool
from torch import Tensor

from harness.cache.bank import KVBank
from harness.cache.stores import GpuStore
from harness.datatypes import Geometry, Plan
from harness.policy import CachePolicy
from harness.replaying.recorded import Content
from harness.trajectory import Trajectory
from harness.worlds.chunks import chunk_at, chunk_count, shown_at
from harness.worlds.ground import Ground
from metrics.replay import Found, found, mean_found, stability

LATE = 0.1  # share of the chunks whose plans count as late


class _Window(GpuStore):
    """Where a chunk's pages lie until the policy rewrites them: nothing is assembled."""

    tier = "window"


def refuse(policy: CachePolicy, name: str, g: Geometry) -> None:
    """Raise ValueError for a policy that a replay cannot follow. The policy is reset."""
    policy.reset(g)
    if policy.pooled:
        raise ValueError(f"{name} keeps rows of many frames in one page, so there are no frames to score; evaluate it with harness/run.py")
    if policy.weighs_bytes:
        raise ValueError(f"{name} forgets by the bytes of window, bank and state, which a replay does not have; evaluate it with harness/run.py")
    if policy.tries:
        raise ValueError(f"{name} looks at what the model makes of a plan, and a replay has no model; evaluate it with harness/run.py")
    if policy.needs_attention_scores:
        raise ValueError(f"{name} looks at a network's attention, which a replay does not have; evaluate it with harness/run.py")


@dataclass(frozen=True)
class Task:
    """A trajectory to replay, the same for every policy. sink, recent: frames that every window is taken to show. scored: chunks at
    which the surface is looked at, at most. What they show is looked at once, whoever asks first."""

    path: Trajectory
    content: Content
    ground: Ground | None
    sink: int
    recent: int
    scored: int
    _shown: dict[int, Bool[Tensor, "f s g"]] = field(default_factory=dict, repr=False)

    @property
    def geometry(self) -> Geometry:
        return self.content.geometry

    @property
    def total(self) -> int:
        """Chunks that are replayed."""
        return min(chunk_count(self.path, self.geometry), self.content.chunks or 10**9)

    def fixed(self, start: int) -> list[int]:
        """Sink and recent frames of a chunk."""
        return sorted({*range(min(self.sink, start)), *range(max(0, start - self.recent), start)})

    @property
    def looked_at(self) -> list[int]:
        """Chunks whose plans are scored: evenly spread over those with a past beyond sink and recent frames."""
        size = self.geometry.chunk
        able = [i for i in range(self.total) if len(self.fixed(i * size)) < i * size]
        count = min(self.scored, len(able)) if self.path.overlap is not None else 0
        return [able[(2 * i + 1) * len(able) // (2 * count)] for i in range(count)]

    def shown(self, index: int) -> Bool[Tensor, "f s g"]:
        """Which surface points of a chunk's views each past frame shows."""
        if index not in self._shown:
            surface = chunk_at(self.path, self.geometry, index).surface
            assert surface is not None, "`looked_at` is empty where there is no truth"
            self._shown[index] = surface[:, :, : index * self.geometry.chunk]
        return self._shown[index]

    def alike(self, index: int) -> frozenset[int] | None:
        """Past chunks that stand in another cell that looks like this chunk's; None where there is none."""
        here = self._cells[index]
        looks = self.ground.looks if self.ground else ()
        chunks = frozenset(c for c in range(index) if looks and self._cells[c] != here and looks[self._cells[c]] == looks[here])
        return chunks or None

    @cached_property
    def _cells(self) -> list[int]:
        """The cell that each chunk's middle frame stands in."""
        if self.ground is None:
            return [0] * self.total
        g = self.geometry
        middles = [(i * g.chunk + g.chunk // 2) * g.stride_px for i in range(self.total)]
        return self.ground.scene.locate(self.path.c2w[middles][:, :3, 3]).tolist()


def replay(task: Task, policy: CachePolicy) -> dict[str, float]:
    """The replay/ columns of one policy on one trajectory."""
    scores: list[Found] = []
    backs, seconds, unreachable = [], [], []
    bank, size, looked_at = begin(policy, task.geometry), task.geometry.chunk, set(task.looked_at)
    for index, plan, took in plans(task, policy, bank):
        start = index * size
        fixed = task.fixed(start)
        back = [f for f in plan.frames if f not in set(fixed)]
        backs.append(back)
        seconds.append(took)
        unreachable.append(start - len(plan.candidates) - sum(f not in plan.candidates for f in plan.frames))
        if index in looked_at:
            scores.append(found(task.shown(index), fixed, back, size, task.alike(index)))
    values = mean_found(scores) | stability(backs)
    values |= {"replay/plan_ms": 1e3 * mean(seconds), "replay/plan_late_ms": 1e3 * median(seconds[-max(1, round(LATE * len(seconds))) :])}
    values |= {"replay/frames": mean(map(len, backs)), "cost/unreachable_frames": mean(unreachable)}
    values["replay/stored"] = sum(bank.held(f) for f in bank.frames) / task.geometry.tokens
    return {k: float(v) for k, v in values.items()}


def begin(policy: CachePolicy, g: Geometry) -> KVBank:
    """A policy that has forgotten everything, and its empty bank."""
    window = _Window()
    window.reset(g.device)
    policy.reset(g)
    return KVBank(g, window, GpuStore(), policy.raw_keys, policy.codec)


def plans(task: Task, policy: CachePolicy, bank: KVBank) -> Iterator[tuple[int, Plan, float]]:
    """Every chunk's plan, and the seconds that it took. Raises what the policy raises, and ValueError for a plan of frames that are not there."""
    g = task.geometry
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter  # other processes do not disturb the first
    for index in range(task.total):
        chunk = chunk_at(task.path, g, index)
        began = clock()
        plan = policy.plan(chunk, bank)
        took = clock() - began
        if missing := [f for f in plan.frames if not bank.rows(f)]:
            raise ValueError(f"chunk {index}: the plan attends to frames {missing}, the bank has {bank.frames}; plan only remembered frames")
        yield index, plan, took
        given = g.frames_px((index + 1) * g.chunk) <= task.path.given
        policy.commit(chunk, replace(task.content.of(index), points=shown_at(task.path, g, index), given=given), bank)
