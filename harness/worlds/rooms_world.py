"""`world=rooms`: revisit trajectories through held-out procedural rooms."""

from collections.abc import Sequence

import torch

from harness.datatypes import Trajectory
from harness.worlds.base import World, given_frames
from harness.worlds.covisibility import CoVisibility
from harness.worlds.ground import Ground
from harness.worlds.poses import integrate, pinhole
from harness.worlds.revisits import Tolerance
from harness.worlds.rooms import SEEDS, make_room, place, render
from harness.worlds.scripted import pad, parse


class RoomsWorld(World):
    """`trajectories` rooms of a split, each walked along the next of `specs` in turn.

    protocol: `guided` gives the outbound leg as clean context, `free` the first chunk. size: pixels (rows, columns). step: metres
    a frame. degrees: turn a frame. min_gap, overlap: when a return counts as a revisit (see `Tolerance`).
    """

    def __init__(
        self,
        trajectories: int,
        specs: Sequence[str],
        protocol: str,
        split: str,
        size: Sequence[int],
        fov: float,
        step: float,
        degrees: float,
        move_frames: int,
        hold_frames: int,
        min_gap: int,
        overlap: float,
        chunk_px: int,
        repeat: int = 1,
    ) -> None:
        if trajectories < 1:
            raise ValueError(f"world.trajectories={trajectories}; use 1 or more")
        if split not in SEEDS:
            raise ValueError(f"world.split={split!r}; use one of {', '.join(SEEDS)}")
        self.specs, self.protocol, self.seeds = list(specs), protocol, SEEDS[split]
        self.size, self.fov, self.step = (size[0], size[1]), fov, step
        self.grammar = (degrees, move_frames, hold_frames)
        self.tolerance, self.chunk_px, self.repeat = Tolerance(min_gap, overlap), chunk_px, repeat
        self._names = tuple(f"{split}{i:04d}_{self.specs[i % len(self.specs)]}" for i in range(trajectories))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def trajectory(self, index: int) -> Trajectory:
        seed = self.seeds[index]
        room = make_room(seed)
        script = parse(self.specs[index % len(self.specs)], *self.grammar)
        actions = pad(torch.cat([script] + [script[1:]] * (self.repeat - 1)), self.chunk_px)
        c2w, _ = place(torch.Generator().manual_seed(seed), room, integrate(actions, self.step))
        intrinsics = pinhole(self.fov, self.size, len(c2w))
        frames = render(room, c2w, intrinsics, self.size)
        given = given_frames(c2w, self.protocol, self.chunk_px)
        pairs, miss = self.tolerance.returns(c2w, self.fov)
        return Trajectory(
            name=self._names[index],
            c2w=c2w,
            intrinsics=intrinsics,
            actions=actions,
            images=frames[:given],
            pairs=pairs,
            reference=frames,
            overlap=CoVisibility(room.scene, c2w, intrinsics, self.size),
            no_pairs=miss,
        )

    def ground(self, index: int) -> Ground:
        room = make_room(self.seeds[index])
        return Ground(room.scene, room.free)
