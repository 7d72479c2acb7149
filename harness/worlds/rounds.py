"""`world=rounds`: a walk without an end, for what must not grow."""

from typing import Annotated

import torch

from harness.settings.ranges import Angle, Count, Le, Size
from harness.trajectory import RevisitPair, Trajectory
from harness.worlds.base import ChunkPx, Held, Step, Turn, World, refuse_too_large
from harness.worlds.poses import integrate, pinhole
from harness.worlds.rooms import SEEDS, make_room, place, render
from harness.worlds.scripted import pad, parse


class RoundsWorld(World):
    """The path `spec`, which must end where it began, in one held-out room, over and over for `chunks` chunks of `chunk_px`
    video frames. The first chunk is given.

    The last round's views are compared with the first round's. There are no true frames and no co-visibility: both cost
    the square of the length. size: pixels (rows, columns). step: metres a frame. degrees: turn a frame.
    """

    def __init__(
        self,
        chunks: Annotated[Count, Le(1_000_000)],
        spec: str,
        size: Size,
        fov: Angle,
        step: Step,
        degrees: Turn,
        move_frames: Held,
        hold_frames: Held,
        chunk_px: ChunkPx,
    ) -> None:
        self.chunks, self.spec, self.size, self.fov, self.step = chunks, spec, (size[0], size[1]), fov, step
        refuse_too_large(chunks * chunk_px, size, "fewer world.chunks")
        self.grammar, self.chunk_px = (degrees, move_frames, hold_frames), chunk_px

    @property
    def names(self) -> tuple[str, ...]:
        return (f"rounds_{self.spec}",)

    def trajectory(self, index: int) -> Trajectory:
        seed, length = SEEDS["test"][index], self.chunks * self.chunk_px
        script = pad(parse(self.spec, *self.grammar), self.chunk_px)
        once = integrate(torch.cat([script, script[:1]]), self.step)  # the last row holds: where the next round begins
        if (gap := (once[-1] - once[0]).abs().max().item()) > 1e-4:
            raise ValueError(f"world.spec={self.spec} does not end where it began (by {gap:.3f}); use a closed path, such as full_loop or R90L90")
        around = len(script)
        room = make_room(seed)
        c2w, _ = place(torch.Generator().manual_seed(seed), room, once[:around])
        c2w = c2w.repeat(-(-length // around), 1, 1)[:length]
        actions = script.repeat(len(c2w) // around + 1, 1)[:length]
        intrinsics = pinhole(self.fov, self.size, length)
        last = range(max(around, length - around), length)
        pairs = tuple(RevisitPair(i % around, i, (i + around // 2) % around, 0.0, 0.0) for i in last)
        images = render(room, c2w[: self.chunk_px], intrinsics[: self.chunk_px], self.size)
        short = "" if pairs else f"one round takes {around} video frames and the path has {length}: it never comes back; raise world.chunks={self.chunks}"
        return Trajectory(self.names[0], c2w, intrinsics, actions, images, pairs, no_pairs=short)
