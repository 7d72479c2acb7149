"""Floor plans: rooms in rows, doorways between them, furniture that leaves the ways free. Geometry alone, a pure function of the seed."""

from dataclasses import dataclass, field

import numpy as np

from harness.worlds.rooms import EYE

WALL = 0.2  # metres between two rooms
SIDES = (3.0, 6.0)  # metres of a room
DOOR = (1.0, 1.2)  # metres of width
LINTEL = 2.1  # metres of height of a doorway
KEEP = 0.55  # metres that furniture keeps from the ways: a camera's 0.35 and 0.2 for a lattice that does not fit
SHAPES = ((3, 3), (3, 4), (4, 4), (3, 3, 3), (2, 3, 3), (3, 3, 4), (4, 4, 4), (3, 4, 4), (4, 3, 4), (2, 3, 2))  # rooms of each row


@dataclass(frozen=True)
class Doorway:
    """Between `rooms` a and b, through a wall across `axis` (0: x, 2: z): at `middle` along the wall, `width` wide, from a's side `at[0]` to b's `at[1]`."""

    rooms: tuple[int, int]
    axis: int
    at: tuple[float, float]
    middle: float
    width: float

    def other(self, room: int) -> int:
        return self.rooms[1 - self.rooms.index(room)]


@dataclass(frozen=True)
class Piece:
    """A box on the floor: x0, x1, z0, z1, and its height in metres. kind: pillar, shelf, table or chest."""

    x0: float
    x1: float
    z0: float
    z1: float
    height: float
    kind: str


@dataclass(frozen=True)
class Place:
    """A room: x0, x1, z0, z1, its height, and the hub, where its ways meet. looks: whose colours it has (its own number, or that of a look-alike)."""

    x0: float
    x1: float
    z0: float
    z1: float
    height: float
    hub: tuple[float, float]
    looks: int
    pieces: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class Plan:
    """rooms, and the doorways between them."""

    rooms: tuple[Place, ...]
    doors: tuple[Doorway, ...]
    at: dict[int, tuple[int, ...]] = field(init=False)  # numbers of each room's doorways

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", {r: tuple(i for i, d in enumerate(self.doors) if r in d.rooms) for r in range(len(self.rooms))})


def make_plan(g: np.random.Generator, rooms: tuple[int, int], twins: float, loops: float) -> Plan:
    """A plan of `rooms` (least, most) rooms. twins: share of rooms that look like another. loops: chance of each doorway that no room needs."""
    shape = _pick(g, [s for s in SHAPES if rooms[0] <= sum(s) <= rooms[1]])
    width = g.uniform(max(3.3 * n + WALL * (n - 1) for n in shape), min(5.2 * n + WALL * (n - 1) for n in shape))
    depths = g.uniform(*SIDES, len(shape))
    z = np.concatenate([[0.0], np.cumsum(depths + WALL)])
    boxes, row_of = [], []
    for row, count in enumerate(shape):
        x = np.concatenate([[0.0], np.cumsum(_parts(g, width - WALL * (count - 1), count) + WALL)])
        boxes += [(x[i], x[i + 1] - WALL, z[row], z[row + 1] - WALL) for i in range(count)]
        row_of += [row] * count
    doors = _doors(g, boxes, loops)
    looks = _looks(g, len(boxes), twins)
    heights = g.uniform(2.5, 3.3, len(boxes))
    places = []
    for i, (x0, x1, z0, z1) in enumerate(boxes):
        hub = (g.uniform(x0 + 1.2, x1 - 1.2), g.uniform(z0 + 1.2, z1 - 1.2))
        mine = [d for d in doors if i in d.rooms]
        ways = [way for d in mine for way in _ways(d, i, hub)]
        pieces = _furniture(g, (x0, x1, z0, z1), heights[i], ways)
        places.append(Place(x0, x1, z0, z1, heights[i], hub, looks[i], pieces))
    return Plan(tuple(places), tuple(doors))


def _pick(g: np.random.Generator, options):
    return options[int(g.integers(len(options)))]


def _parts(g: np.random.Generator, total: float, count: int) -> np.ndarray:
    """`total` metres in `count` parts of 3 to 6 m."""
    for _ in range(100):
        parts = g.uniform(*SIDES, count)
        parts *= total / parts.sum()
        if SIDES[0] <= parts.min() and parts.max() <= SIDES[1]:
            return parts
    return np.full(count, total / count)


def _doors(g: np.random.Generator, boxes: list[tuple[float, ...]], loops: float) -> list[Doorway]:
    """A doorway for every edge of a random spanning tree of the rooms that share enough wall, and for some of the other edges."""
    possible = []
    for a in range(len(boxes)):
        for b in range(a + 1, len(boxes)):
            for axis in (0, 2):
                near, along = (boxes[a][axis + 1], boxes[b][axis]), 2 - axis
                low, high = max(boxes[a][along], boxes[b][along]), min(boxes[a][along + 1], boxes[b][along + 1])
                if abs(near[1] - near[0] - WALL) < 1e-6 and high - low >= 2.0:
                    width = g.uniform(*DOOR)
                    possible.append(Doorway((a, b), axis, near, g.uniform(low + 0.9, high - 0.9), width))
    group = list(range(len(boxes)))
    chosen = []
    for i in g.permutation(len(possible)):
        a, b = (group[r] for r in possible[i].rooms)
        if a != b:
            group = [a if x == b else x for x in group]
        if a != b or g.random() < loops:
            chosen.append(int(i))
    assert len(set(group)) == 1, "a room that touches no other"
    return [possible[i] for i in sorted(chosen)]


def _looks(g: np.random.Generator, count: int, twins: float) -> list[int]:
    """Whose colours each room has: about `twins` of the rooms are in pairs that look alike."""
    order, looks = g.permutation(count).tolist(), list(range(count))
    for a, b in zip(order[: 2 * round(count * twins / 2) : 2], order[1::2], strict=False):
        looks[max(a, b)] = min(a, b)
    return looks


def _ways(door: Doorway, room: int, hub: tuple[float, float]) -> list[tuple[float, float, float, float]]:
    """The two straight ways (x0, x1, z0, z1) from a doorway to the hub: straight in as far as the hub, then along the wall."""
    enter = door.at[door.rooms.index(room)]
    if door.axis == 0:
        a, b, c = (enter, door.middle), (hub[0], door.middle), hub
    else:
        a, b, c = (door.middle, enter), (door.middle, hub[1]), hub
    return [(min(p[0], q[0]), max(p[0], q[0]), min(p[1], q[1]), max(p[1], q[1])) for p, q in ((a, b), (b, c))]


def _furniture(g: np.random.Generator, box: tuple[float, ...], height: float, ways: list[tuple[float, ...]]) -> tuple[Piece, ...]:
    """Up to four pieces: along walls, but for pillars and some tables, and none nearer than `KEEP` to a way."""
    x0, x1, z0, z1 = box
    pieces: list[Piece] = []
    for kind in ["shelf", "table", "chest", "pillar"][int(g.integers(2)) :]:
        for _ in range(12):
            long, short, tall = _sizes(g, kind)
            if g.random() < 0.5:
                w, d = long, short
            else:
                w, d = short, long
            if kind == "pillar" or (kind == "table" and g.random() < 0.4):
                x, z = g.uniform(x0 + 0.5, x1 - 0.5 - w), g.uniform(z0 + 0.5, z1 - 0.5 - d)
            elif w > d:  # along a wall across z
                x, z = g.uniform(x0, x1 - w), _pick(g, [z0, z1 - d])
            else:
                x, z = _pick(g, [x0, x1 - w]), g.uniform(z0, z1 - d)
            piece = Piece(x, x + w, z, z + d, min(tall, height), kind)
            if not any(_touch(piece, way, KEEP) for way in ways) and not any(_touch(piece, (p.x0, p.x1, p.z0, p.z1), 0.1) for p in pieces):
                pieces.append(piece)
                break
    return tuple(pieces)


def _sizes(g: np.random.Generator, kind: str) -> tuple[float, float, float]:
    if kind == "pillar":
        side = g.uniform(0.3, 0.5)
        return side, side, 9.0
    ranges = {"shelf": ((0.8, 1.4), (0.35, 0.5), (1.6, 2.1)), "table": ((0.8, 1.5), (0.6, 0.9), (0.65, 0.8)), "chest": ((0.7, 1.4), (0.4, 0.6), (0.5, 1.2))}
    long, short, tall = (g.uniform(*r) for r in ranges[kind])
    return long, short, tall


def _touch(piece: Piece, other: tuple[float, ...], keep: float) -> bool:
    x0, x1, z0, z1 = other
    return piece.x0 < x1 + keep and piece.x1 > x0 - keep and piece.z0 < z1 + keep and piece.z1 > z0 - keep


assert LINTEL > EYE
