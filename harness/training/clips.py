"""Training clips: walks through random rooms and houses, in chunks that may be far apart in time and in place."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from harness.settings.ranges import Angle, Count, Le, Rule, Share
from harness.training.walks import CHUNK, choose, house_walk, room_walk
from harness.worlds.base import Step
from harness.worlds.poses import pinhole, relative
from harness.worlds.render import render
from harness.worlds.scene import Scene

Side = Annotated[int, Rule(lambda n: 8 <= n <= 4096 and n % 8 == 0, "a multiple of 8 from 8 to 4096")]  # pixels; the codec's cells have 8
KEPT = 4096  # clips in memory: 48 frames of 64x64 are 0.6 MB


class Clip(NamedTuple):
    """A named tuple, which Lightning can move to a device.

    frames: images as uint8. c2w: poses relative to the walk's start. times: latent frame of each frame in its walk.
    house: whether the scene is a house, else a room.
    """

    frames: UInt8[Tensor, "f 3 y x"]
    c2w: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 4"]
    times: Float[Tensor, "f"]
    house: Bool[Tensor, ""]


@dataclass(frozen=True)
class Scenery:
    """What clips show. size: pixels a side. fov: degrees. step: metres a frame in a room. houses: their share, the rest are rooms.

    Raises ValueError for a share outside [0, 1].
    """

    size: Side
    fov: Angle
    step: Step
    houses: Share = 0.0


class Shot(NamedTuple):
    """Where the camera of a clip is. c2w: in the scene. origin: the walk's first pose."""

    scene: Scene
    c2w: Float[Tensor, "f 4 4"]
    origin: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "f 4"]
    times: Float[Tensor, "f"]
    house: bool


def make_clip(seed: int, chunks: int, walk_chunks: int, scenery: Scenery) -> Clip:
    """The clip of a seed: `chunks` chunks that show frames of a walk of `walk_chunks` chunks, see `walks.choose`.

    Raises ValueError for a walk that is shorter than its clip.
    """
    shot = make_shot(seed, chunks, walk_chunks, scenery)
    frames = render(shot.scene, shot.c2w, shot.intrinsics, (scenery.size, scenery.size))
    return Clip((frames * 255).round().byte(), relative(shot.c2w, shot.origin), shot.intrinsics, shot.times, torch.tensor(shot.house))


def make_shot(seed: int, chunks: int, walk_chunks: int, scenery: Scenery) -> Shot:
    """The poses of `make_clip`."""
    if walk_chunks < chunks:
        raise ValueError(f"a clip of {chunks} chunks does not fit a walk of {walk_chunks}; set walk_chunks={chunks} or more")
    g = torch.Generator().manual_seed(seed)
    house = bool(torch.rand(1, generator=g) < scenery.houses)
    walk = (house_walk if house else room_walk)(seed, g, walk_chunks * CHUNK, scenery.step)
    shown, times = choose(g, chunks, len(walk.c2w))
    intrinsics = pinhole(scenery.fov, (scenery.size, scenery.size), len(times))
    return Shot(walk.scene, walk.c2w[shown], walk.c2w[0], intrinsics, times.float(), house)


@dataclass(frozen=True)
class Phase:
    """A stretch of training: clips of `chunks` chunks out of walks of `walk_chunks`, `batch` a step, for `steps` steps."""

    chunks: Annotated[Count, Le(1000)]
    walk_chunks: Annotated[Count, Le(100_000)]
    batch: Annotated[Count, Le(100_000)]
    steps: Count


class Clips(Dataset[Clip]):
    """Clip (phase, i) is a pure function of its index. After `unique` scenes they come again (from memory if they are few, other noise)."""

    def __init__(self, seeds: range, unique: int, phases: list[Phase], scenery: Scenery) -> None:
        self.seeds, self.unique, self.phases, self.scenery = seeds, unique, phases, scenery
        self.seen: dict[tuple[int, int, int], Clip] = {}

    def __getitem__(self, key: tuple[int, int]) -> Clip:
        p, index = self.phases[key[0]], key[1] % self.unique
        about = (index, p.chunks, p.walk_chunks)
        if about not in self.seen:
            clip = make_clip(self.seeds[index], p.chunks, p.walk_chunks, self.scenery)
            if self.unique <= KEPT:  # more would fill the memory and hardly come again
                self.seen[about] = clip
            return clip
        return self.seen[about]


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


def collate(clips: list) -> Any:
    """Named tuples of tensors as one, stacked."""
    return type(clips[0])(*map(torch.stack, zip(*clips, strict=True)))
