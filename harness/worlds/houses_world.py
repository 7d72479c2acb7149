"""`world=houses`: tours of held-out houses that come back to a room after other rooms."""

from collections.abc import Sequence
from typing import Annotated, Literal

from jaxtyping import Float
from torch import Tensor

from harness.settings.ranges import Angle, Count, Le, Len, Natural, Share, Size
from harness.trajectory import RevisitPair, Trajectory
from harness.worlds.base import ChunkPx, Protocol, Split, Step, Turn, World, refuse_too_large
from harness.worlds.changing import LATER, Change, change, check_changes
from harness.worlds.covisibility import CoVisibility
from harness.worlds.ground import Ground
from harness.worlds.houses import House, make_house, plan_house
from harness.worlds.plans import check_rooms
from harness.worlds.poses import pinhole
from harness.worlds.render import render
from harness.worlds.revisits import Tolerance
from harness.worlds.rooms import SEEDS, UPRIGHT
from harness.worlds.tours import Tour, Wish, tour

SPARE = 10_000  # trajectory i takes seed i of its split or, if that house has no such tour, i + 10,000, i + 20,000 and so on
TRIES = 40


class HousesWorld(World):
    """A tour through each of `trajectories` houses of a split, `chunks` chunks long, that comes back `returns` times, see `tours.Wish`.

    protocol: `guided` gives everything up to the first view that is scored, `free` the first chunk. start: the first house of the split.
    size: pixels (rows, columns). step, degrees: metres and turn of a frame. gap: chunks from a look around to being back, at least. rooms: fewest
    and most. twins: share of rooms that look like another. loops: chance of a doorway that no room needs. min_gap, overlap: when a
    return counts as a revisit (see `Tolerance`): by true co-visibility.

    changes: share of the walls and pieces of furniture that are others from half-way between the first visit and the first return on, of those
    that the tour has shown and that are out of sight there. Given is then also the first return, pairs are of views that show what has changed,
    after it did, and a tour must come back twice (`returns`). True views and co-visibility are those of a frame's time. 0: nothing changes.
    """

    def __init__(
        self,
        trajectories: Annotated[Count, Le(SPARE)],
        chunks: Annotated[Count, Le(100_000)],
        route: Literal["any", "far", "loop", "twins"],
        returns: Annotated[Count, Le(1000)],
        gap: Annotated[Natural, Le(100_000)],
        protocol: Protocol,
        split: Split,
        start: Natural,
        size: Size,
        fov: Angle,
        step: Step,
        degrees: Turn,
        rooms: Annotated[Sequence[Count], Len(2, 2)],
        twins: Share,
        loops: Share,
        min_gap: Natural,
        overlap: Share,
        chunk_px: ChunkPx,
        changes: Share = 0.0,
    ) -> None:
        check_changes(changes, protocol)
        if changes and returns < 2:
            raise ValueError(
                f"world.changes={changes} with world.returns={returns}: what has changed is seen once and then scored; use world.returns=2 or more"
            )
        if start < 0 or start + trajectories + TRIES * SPARE > len(SEEDS[split]):
            raise ValueError(f"world.start={start}; a split has {len(SEEDS[split])} houses, use 0 to {len(SEEDS[split]) - trajectories - TRIES * SPARE}")
        check_rooms(tuple(rooms), twins, loops)
        self.wish = Wish(chunks * chunk_px, step, degrees, route, returns, gap * chunk_px)
        self.protocol, self.seeds, self.start = protocol, SEEDS[split], start
        refuse_too_large(chunks * chunk_px, size, "fewer world.chunks")
        self.house = (tuple(rooms), twins, loops)
        self.size, self.fov = (size[0], size[1]), fov
        self.tolerance, self.chunk_px, self.changes = Tolerance(min_gap, overlap), chunk_px, changes
        self._names = tuple(f"{split}{i:04d}_{route}" for i in range(start, start + trajectories))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def trajectory(self, index: int) -> Trajectory:
        house, walked = self.find(index)
        c2w, intrinsics = walked.c2w, pinhole(self.fov, self.size, len(walked.c2w))
        truth = CoVisibility(house.scene, c2w, intrinsics, self.size)
        pairs, miss = self.tolerance.returns(c2w, self.fov, truth=truth)
        if self.changes and pairs:
            changed = self.change(house, pairs, c2w, intrinsics)
            after = CoVisibility(changed.after, c2w[changed.at :], intrinsics[changed.at :], self.size)
            longer = "use more world.chunks or world.returns"
            pairs, miss = changed.returns(self.tolerance, c2w, intrinsics, self.size, self.fov, after, longer)
            frames, truth = changed.render(c2w, intrinsics, self.size), changed.truth(c2w, intrinsics, self.size)
        else:
            frames = render(house.scene, c2w, intrinsics, self.size)
        given = self.chunk_px
        if self.protocol == "guided":
            scored = min((p.revisit for p in pairs), default=len(c2w))
            given = max(given, min(scored, len(c2w) - self.chunk_px) // self.chunk_px * self.chunk_px)
        return Trajectory(self._names[index], c2w, intrinsics, walked.actions, frames[:given], pairs, reference=frames, overlap=truth, no_pairs=miss)

    def change(self, house: House, pairs: Sequence[RevisitPair], c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Change:
        """What changes along a tour, half-way between the first view that comes back and its first return. pairs: as if nothing changed."""
        first = min(pairs, key=lambda p: p.revisit)
        cells = house.scene.cells[: len(house.plan.rooms)]
        walls = {c.textures + side for c in cells for side in UPRIGHT}
        furniture = {t for c in cells for box in c.boxes for t in box.textures}
        other = make_house(house.seed, *self.house, coat=house.seed + LATER).scene.textures
        at = (first.first + first.revisit) // 2
        return change(at, house.scene, walls | furniture, lambda g, i: other[i], house.seed, self.changes, c2w, intrinsics, self.size)

    def ground(self, index: int) -> Ground:
        house, _ = self.find(index)
        rooms = house.plan.rooms
        return Ground(house.scene, house.free, (*(r.looks for r in rooms), *range(len(rooms), len(house.scene.cells))))

    def find(self, index: int) -> tuple[House, Tour]:
        """The house of a trajectory and the tour through it. Raises ValueError if none of `TRIES` houses has such a tour."""
        wish, reason = self.wish, ""
        for i in range(TRIES):
            seed = self.seeds[self.start + index + i * SPARE]
            try:
                walked = tour(plan_house(seed, *self.house), seed, wish.frames, wish.step, wish.degrees, wish.route, wish.returns, wish.gap)
            except ValueError as error:
                reason = str(error)
            else:
                return make_house(seed, *self.house), walked
        raise ValueError(f"none of {TRIES} houses has such a tour; the last one: {reason}")
