"""Training clips: random walks through random rooms that come back, in chunks that may be far apart in time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor
from torch.utils.data import Dataset, Sampler

from harness.worlds.poses import integrate, pinhole
from harness.worlds.rooms import make_room, place, render

CHUNK = 3  # latent frames


class Clip(NamedTuple):
    """A named tuple, which Lightning can move to a device.

    frames: images as uint8. c2w: poses relative to the walk's start. times: latent frame of each frame in its walk.
    """

    frames: UInt8[Tensor, "f 3 y x"]
    c2w: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 4"]
    times: Float[Tensor, "f"]


def random_walk(g: Generator, frames: int) -> Float[Tensor, "f 6"]:
    """Actions made of segments of 2 to 7 frames: turns of 4 to 14 degrees a frame, steps in all four directions, holds."""
    actions = torch.zeros(frames, 6)
    at = 1
    while at < frames:
        end = at + int(torch.randint(2, 8, (1,), generator=g))
        turn, walk = (torch.rand(2, generator=g) < torch.tensor([0.75, 0.4])).tolist()
        if turn:
            sign = 1 if torch.rand(1, generator=g) < 0.5 else -1
            actions[at:end, 4] = sign * (4 + 10 * torch.rand(1, generator=g))
        if walk:
            actions[at:end, int(torch.randint(4, (1,), generator=g))] = 1
        at = end
    return actions


def random_poses(g: Generator, frames: int, step: float) -> Float[Tensor, "f 4 4"]:
    """A walk of `frames` poses; two in three walk back the way they came, so that early views return late."""
    if torch.rand(1, generator=g) < 2 / 3:
        out = integrate(random_walk(g, frames // 2 + 1), step)
        return torch.cat([out, out.flip(0)[1:]])[:frames]
    return integrate(random_walk(g, frames), step)


def make_clip(seed: int, chunks: int, walk_chunks: int, size: int, fov: float, step: float) -> Clip:
    """The clip of a seed: `chunks` chunks out of a walk of `walk_chunks`, contiguous from its start in half of the cases.

    Skipping chunks shows the model windows with holes and late times, as every cache policy will make them: no policy's
    windows are then out of distribution.
    """
    g = torch.Generator().manual_seed(seed)
    room = make_room(seed)
    c2w = random_poses(g, walk_chunks * CHUNK, step)
    chosen = torch.arange(chunks)
    if torch.rand(1, generator=g) < 0.5:
        chosen = torch.randperm(walk_chunks, generator=g)[:chunks].sort().values
    times = (chosen[:, None] * CHUNK + torch.arange(CHUNK)).flatten()
    c2w = c2w[times]
    world, c2w = place(g, room, c2w)
    intrinsics = pinhole(fov, (size, size), len(times))
    frames = render(room, world, intrinsics, (size, size))
    return Clip((frames * 255).round().byte(), c2w, intrinsics, times.float())


@dataclass(frozen=True)
class Phase:
    """A stretch of training: clips of `chunks` chunks out of walks of `walk_chunks`, `batch` a step, for `steps` steps."""

    chunks: int
    walk_chunks: int
    batch: int
    steps: int


class Clips(Dataset[Clip]):
    """Clip (phase, i) is a pure function of its index. After `unique` scenes they come again (from memory, other noise)."""

    def __init__(self, seeds: range, unique: int, phases: list[Phase], size: int, fov: float, step: float) -> None:
        self.seeds, self.unique, self.phases = seeds, unique, phases
        self.world = (size, fov, step)
        self.seen: dict[tuple[int, int], Clip] = {}

    def __getitem__(self, key: tuple[int, int]) -> Clip:
        phase, index = key[0], key[1] % self.unique
        if (phase, index) not in self.seen:
            p = self.phases[phase]
            self.seen[phase, index] = make_clip(self.seeds[index], p.chunks, p.walk_chunks, *self.world)
        return self.seen[phase, index]


class Batches(Sampler[list[tuple[int, int]]]):
    """Batches of clip keys from step `start` on: a resumed run sees exactly the clips that it had not seen yet."""

    def __init__(self, phases: list[Phase], start: int) -> None:
        self.phases, self.start = phases, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = clip = 0
        for number, phase in enumerate(self.phases):
            for _ in range(phase.steps):
                if step >= self.start:
                    yield [(number, clip + i) for i in range(phase.batch)]
                step, clip = step + 1, clip + phase.batch

    def __len__(self) -> int:
        """The whole run's steps, not the remaining ones: a resumed Lightning epoch goes on counting where it was."""
        return sum(p.steps for p in self.phases)


def collate(clips: list[Clip]) -> Clip:
    return Clip(*(torch.stack([getattr(c, name) for c in clips]) for name in ("frames", "c2w", "intrinsics", "times")))
