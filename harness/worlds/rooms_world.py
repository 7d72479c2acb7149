"""`world=rooms`: revisit trajectories through held-out procedural rooms."""

from collections.abc import Sequence
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from harness.settings.ranges import Angle, Count, Le, Len, Natural, Share, Size
from harness.trajectory import Trajectory
from harness.worlds.base import ChunkPx, Held, Protocol, Split, Step, Trajectories, Turn, World, given_frames, refuse_too_large
from harness.worlds.changing import Change, change, check_changes
from harness.worlds.covisibility import CoVisibility
from harness.worlds.ground import Ground
from harness.worlds.poses import integrate, pinhole
from harness.worlds.revisits import Tolerance, outbound
from harness.worlds.rooms import SEEDS, UPRIGHT, Room, make_room, painted, place, render
from harness.worlds.scripted import pad, parse


class RoomsWorld(World):
    """`trajectories` rooms of a split, each walked along the next of `specs` in turn.

    protocol: `guided` gives the outbound leg as clean context, `free` the first chunk. size: pixels (rows, columns). step: metres
    a frame. degrees: turn a frame. min_gap, overlap: when a return counts as a revisit (see `Tolerance`).

    changes: share of walls and pillars that are others once the camera turns back, out of sight then (see `changing.change`). Given is then
    also what follows, until the camera comes back once more, and pairs are of views that show what has changed, after it did; a path must come
    back twice (`repeat`). True views and co-visibility are those of a frame's time. 0: nothing changes.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        specs: Annotated[Sequence[str], Len(1)],
        protocol: Protocol,
        split: Split,
        size: Size,
        fov: Angle,
        step: Step,
        degrees: Turn,
        move_frames: Held,
        hold_frames: Held,
        min_gap: Natural,
        overlap: Share,
        chunk_px: ChunkPx,
        repeat: Annotated[Count, Le(100_000)] = 1,
        changes: Share = 0.0,
    ) -> None:
        check_changes(changes, protocol)
        self.specs, self.protocol, self.seeds = list(specs), protocol, SEEDS[split]
        self.size, self.fov, self.step = (size[0], size[1]), fov, step
        self.grammar = (degrees, move_frames, hold_frames)
        self.tolerance, self.chunk_px, self.repeat, self.changes = Tolerance(min_gap, overlap), chunk_px, repeat, changes
        longest = max(len(parse(spec, *self.grammar)) for spec in self.specs) * repeat
        refuse_too_large(longest, self.size, "fewer frames (world.specs, world.repeat)")
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
        if self.changes:
            changed = self.change(room, seed, c2w, intrinsics)
            frames, truth = changed.render(c2w, intrinsics, self.size), changed.truth(c2w, intrinsics, self.size)
            leg = -(-(changed.at + outbound(c2w[changed.at :])) // self.chunk_px) * self.chunk_px  # until the camera comes back once more: all is seen anew
            pairs, miss = changed.returns(self.tolerance, c2w, intrinsics, self.size, self.fov)
        else:
            frames, truth, leg = render(room, c2w, intrinsics, self.size), CoVisibility(room.scene, c2w, intrinsics, self.size), None
            pairs, miss = self.tolerance.returns(c2w, self.fov)
        given = given_frames(c2w, self.protocol, self.chunk_px, leg)
        return Trajectory(
            name=self._names[index],
            c2w=c2w,
            intrinsics=intrinsics,
            actions=actions,
            images=frames[:given],
            pairs=pairs,
            reference=frames,
            overlap=truth,
            no_pairs=miss,
        )

    def change(self, room: Room, seed: int, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Change:
        """What changes along a path: walls and pillars, when it first comes back to a pose that it had left. Raises ValueError for a path that does not."""
        at = outbound(c2w)
        if at == len(c2w):
            raise ValueError("world.changes: the path never comes back to a pose that it had left, so nothing can change in between; use other world.specs")
        able = {*UPRIGHT, *range(6, len(room.textures))}
        return change(at, room.scene, able, lambda g, i: painted(g).permute(1, 2, 0), seed, self.changes, c2w, intrinsics, self.size)

    def ground(self, index: int) -> Ground:
        room = make_room(self.seeds[index])
        return Ground(room.scene, room.free)
