"""Houses, tours and true co-visibility: against second routes and known answers."""

import itertools
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from harness.settings.build import build
from harness.worlds.covisibility import CoVisibility
from harness.worlds.houses import make_house, plan_house
from harness.worlds.houses_world import HousesWorld
from harness.worlds.plans import SIDES, make_plan
from harness.worlds.poses import integrate, pinhole, rays, rotation
from harness.worlds.raycast import cast
from harness.worlds.render import render
from harness.worlds.revisits import find_pairs
from harness.worlds.rooms import EYE, make_room, place
from harness.worlds.rooms import cast as cast_room
from harness.worlds.scripted import parse
from harness.worlds.tours import LONGEST_STEP, circuits, tour
from harness.worlds.tours import _legs as ways
from harness.worlds.walks import Walk
from tests.conftest import CONF
from tests.tolerances import RENDER


def make_world(name: str = "houses_tiny", **settings) -> HousesWorld:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"world={name}", *(f"world.{k}={v}" for k, v in settings.items())])
    return build(cfg.world, "world")


def views(house, count, seed=0):
    """Poses anywhere that is free, with any heading and some pitch; a fifth of them in doorways."""
    g = torch.Generator().manual_seed(seed)
    rooms, spots = house.plan.rooms, []
    ends = [min(r.x0 for r in rooms), max(r.x1 for r in rooms), min(r.z0 for r in rooms), max(r.z1 for r in rooms)]
    while len(spots) < count:
        at = torch.rand(2, generator=g) * torch.tensor([ends[1] - ends[0], ends[3] - ends[2]]) + torch.tensor([ends[0], ends[2]])
        if len(spots) % 5 == 4:
            d = house.plan.doors[len(spots) % len(house.plan.doors)]
            at = torch.tensor([sum(d.at) / 2, d.middle] if d.axis == 0 else [d.middle, sum(d.at) / 2])
        if house.free(at[None]).all():
            spots.append(at)
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, :3, :3] = rotation(360 * torch.rand(count, generator=g), 60 * torch.rand(count, generator=g) - 30)
    c2w[:, [0, 2], 3] = torch.stack(spots)
    return c2w


def room_of(house, c2w):
    """The room of each pose, -1 in a doorway."""
    return [next((i for i, r in enumerate(house.plan.rooms) if r.x0 <= x <= r.x1 and r.z0 <= z <= r.z1), -1) for x, z in c2w[:, [0, 2], 3].tolist()]


# ----- houses


def test_a_house_is_a_function_of_its_seed():
    a, b, other = make_house(5), make_house(5), make_house(6)
    assert a.plan == b.plan and a.scene.cells == b.scene.cells and torch.equal(a.scene.textures, b.scene.textures)
    assert a.plan != other.plan
    assert a.scene.textures.min() >= 0 and a.scene.textures.max() <= 1


def test_plans_are_as_asked_and_every_room_can_be_reached():
    counts = set()
    for seed in range(60):
        plan = make_plan(np.random.default_rng(seed), (6, 12), 0.25, 0.75)
        counts.add(len(plan.rooms))
        reached = {0}
        while more := {d.other(r) for r in reached for d in plan.doors if r in d.rooms} - reached:
            reached |= more
        assert len(reached) == len(plan.rooms)
        assert len(plan.doors) >= len(plan.rooms), "no way round"
        for r in plan.rooms:
            assert SIDES[0] - 1e-6 <= min(r.x1 - r.x0, r.z1 - r.z0) and max(r.x1 - r.x0, r.z1 - r.z0) <= SIDES[1] + 1e-6
        for a, b in itertools.combinations(plan.rooms, 2):
            assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.z1 <= b.z0 or b.z1 <= a.z0, "rooms overlap"
    assert counts == {6, 7, 8, 9, 10, 11, 12}
    tree = make_plan(np.random.default_rng(0), (6, 12), 0.0, 0.0)
    assert len(tree.doors) == len(tree.rooms) - 1 and [r.looks for r in tree.rooms] == list(range(len(tree.rooms)))


def test_rays_end_at_walls_and_go_through_doors():
    through = 0
    for house in (make_house(s) for s in range(3)):
        for d in house.plan.doors:
            a = house.plan.rooms[d.rooms[0]]
            o = torch.zeros(2, 3)
            axis, along = d.axis, 2 - d.axis
            o[:, axis] = d.at[0] - 0.3
            o[0, along], o[1, along] = d.middle, d.middle + d.width / 2 + 0.15
            low, high = (a.x0, a.x1) if along == 0 else (a.z0, a.z1)
            ahead = torch.zeros(2, 1, 3)
            ahead[:, 0, axis] = 1
            if not low < o[1, along] < high:
                continue
            open_, shut = cast(house.scene, o, ahead).depth[:, 0].tolist()
            assert open_ > 0.3 + 0.2 + 0.35, "a doorway leads into free space"
            assert abs(shut - 0.3) < 1e-4, "a wall beside a doorway is shut"
            through += 1
    assert through > 20


def test_furniture_keeps_the_ways_free():
    """From every room through each of its doorways, on lattices that fit badly."""
    for seed in range(12):
        plan = make_plan(np.random.default_rng(seed), (6, 12), 0.25, 0.75)
        for home, step in itertools.product(range(len(plan.rooms)), (0.12, LONGEST_STEP)):
            for c in circuits(plan, home, 2):
                legs = [leg for part in ways(plan, c, step) for leg in part]
                walk = Walk(10.0, *(round(h / step) for h in plan.rooms[home].hub), 0)
                walk.along(legs, 1)
                assert all(plan.free(row.x * step, row.z * step) for row in walk.rows)


def test_rooms_that_look_alike_share_colours_and_differ_in_pictures():
    twins, others = [], []
    for house in (make_house(s) for s in range(6)):
        rooms, textures = house.plan.rooms, house.scene.textures
        of = [textures[house.scene.cells[r].textures :][:6] for r in range(len(rooms))]
        for a, b in itertools.combinations(range(len(rooms)), 2):
            differ = [(of[a][s].flatten(0, 1).median(0).values - of[b][s].flatten(0, 1).median(0).values).abs().max().item() for s in range(6)]
            if rooms[a].looks == rooms[b].looks:
                twins.append(np.median(differ))
                assert all((of[a][s] - of[b][s]).abs().max() > 0.1 for s in (0, 1, 4, 5)), "two walls with the same pictures"
            else:
                others.append(np.median(differ))
    assert len(twins) >= 6
    assert max(twins) < 0.08 and np.quantile(others, 0.1) > 0.08


# ----- rays and pictures, by a second route


def rectangles(house):
    """Every surface of a house as (axis, at, low and high ends along the other two axes, hole in it, texture), from the plan, not from cells."""
    faces = []
    for r, room in enumerate(house.plan.rooms):
        first = house.scene.cells[r].textures
        lo, hi = (room.x0, EYE - room.height, room.z0), (room.x1, EYE, room.z1)
        for side in range(6):
            axis = side // 2
            holes = [
                d for d in house.plan.doors if r in d.rooms and d.axis == axis and (d.rooms[0] == r) == (side % 2 == 1) and axis != 1
            ]  # the first room of a doorway lies below it
            faces.append((axis, (lo, hi)[side % 2][axis], lo, hi, holes, first + side))
        for p, box in zip(room.pieces, house.scene.cells[r].boxes, strict=True):
            lo_, hi_ = (p.x0, EYE - p.height, p.z0), (p.x1, EYE, p.z1)
            faces += [(axis, (lo_, hi_)[end][axis], lo_, hi_, [], box.textures[axis]) for axis in range(3) for end in range(2)]
    for i, d in enumerate(house.plan.doors):
        first = house.scene.cells[len(house.plan.rooms) + i].textures
        lo, hi = [0.0, EYE - 2.1, 0.0], [0.0, EYE, 0.0]
        lo[d.axis], hi[d.axis] = d.at
        lo[2 - d.axis], hi[2 - d.axis] = d.middle - d.width / 2, d.middle + d.width / 2
        faces += [(axis, (lo, hi)[end][axis], lo, hi, [], first + 2 * axis + end) for axis in range(3) if axis != d.axis for end in range(2)]
    return faces


def first_faces(faces, o, d):
    """Depths and textures of the two nearest surfaces on a ray, in float64."""
    found = []
    for axis, at, lo, hi, holes, texture in faces:
        t = (at - o[axis]) / d[axis]
        p = [o[i] + t * d[i] for i in range(3)]
        if t > 1e-9 and all(lo[i] <= p[i] <= hi[i] for i in range(3) if i != axis):
            along = 2 - axis
            if not any(abs(p[along] - h.middle) < h.width / 2 and p[1] > EYE - 2.1 for h in holes):
                found.append((t, texture))
    return sorted(found)[:2]


@pytest.mark.parametrize("seed", range(4))
def test_casting_equals_every_ray_against_every_surface(seed):
    house = make_house(seed)
    c2w = views(house, 20, seed)
    o, d = rays(c2w, pinhole(80.0, (6, 6), len(c2w)), (6, 6))
    hit, faces, clear = cast(house.scene, o, d), rectangles(house), 0
    for f, n in itertools.product(range(len(c2w)), range(36)):
        (depth, texture), *more = first_faces(faces, o[f].double().tolist(), d[f, n].double().tolist())
        assert abs(hit.depth[f, n].item() - depth) < 1e-4 * max(1, depth)
        if not more or more[0][0] > depth * 1.001:  # no edge
            clear += 1
            assert hit.surface[f, n].item() == texture
    assert clear > 0.9 * 36 * len(c2w)


def test_pictures_do_not_depend_on_what_is_passed_over():
    """Boxes and doors out of view are not looked at, rays are followed in blocks: a picture is the same alone, and as a whole cast shows it."""
    house = make_house(2)
    c2w = views(house, 12)
    k = pinhole(80.0, (16, 16), len(c2w))
    together = render(house.scene, c2w, k, (16, 16), 1)
    for i in range(len(c2w)):
        assert torch.allclose(render(house.scene, c2w[i : i + 1], k[:1], (16, 16), 1)[0], together[i], atol=RENDER)
    o, d = rays(c2w, k, (16, 16))
    hit = cast(house.scene, o, d)
    x, y = ((t * 64 - 0.5).clamp(0, 62.999).double() for t in (hit.u, hit.v))
    t = house.scene.textures.double()
    at = [[t[hit.surface.long(), y.long() + dy, x.long() + dx] for dx in (0, 1)] for dy in (0, 1)]
    fx, fy = (x % 1)[..., None], (y % 1)[..., None]
    colour = (at[0][0] * (1 - fx) + at[0][1] * fx) * (1 - fy) + (at[1][0] * (1 - fx) + at[1][1] * fx) * fy
    assert torch.allclose(together, colour.transpose(1, 2).unflatten(-1, (16, 16)).float(), atol=1e-4)
    assert together.flatten(1).std(1).min() > 0.02, "a view of nothing"


def cast_by_planes(room, o, d):
    """How rooms were cast before houses: all planes, then every pillar, for all rays."""
    d = torch.where(d.abs() < 1e-7, torch.full_like(d, 1e-7), d)
    depth, axis = ((torch.where(d > 0, room.hi, room.lo) - o) / d).min(-1)
    point = (o + depth[..., None] * d - room.lo) / (room.hi - room.lo)
    u, v = torch.where(axis == 0, point[..., 2], point[..., 0]), torch.where(axis == 1, point[..., 2], point[..., 1])
    surface = 2 * axis + (d.gather(-1, axis[..., None])[..., 0] > 0)
    for i, (x0, x1, z0, z1) in enumerate(room.pillars):
        tx = torch.stack([(x0 - o[..., 0]) / d[..., 0], (x1 - o[..., 0]) / d[..., 0]])
        tz = torch.stack([(z0 - o[..., 2]) / d[..., 2], (z1 - o[..., 2]) / d[..., 2]])
        near, far = torch.maximum(tx.amin(0), tz.amin(0)), torch.minimum(tx.amax(0), tz.amax(0))
        hit = (near > 0) & (near < far) & (near < depth)
        at = o + near[..., None] * d
        along = torch.where(tx.amin(0) > tz.amin(0), (at[..., 2] - z0) / (z1 - z0), (at[..., 0] - x0) / (x1 - x0))
        depth, surface, u = torch.where(hit, near, depth), torch.where(hit, 6 + i, surface), torch.where(hit, along, u)
        v = torch.where(hit, (at[..., 1] - room.lo[1]) / (room.hi[1] - room.lo[1]), v)
    return depth, surface, u, v


def test_single_rooms_are_cast_as_they_were_to_the_bit():
    pillars = 0
    for seed in range(12):
        room = make_room(seed)
        pillars += len(room.pillars)
        c2w, _ = place(torch.Generator().manual_seed(seed), room, integrate(parse("WR_LS120"), 0.12))
        o, d = rays(c2w, pinhole(80.0, (32, 32), len(c2w)), (32, 32))
        for new, old in zip(cast_room(room, o, d), cast_by_planes(room, o[:, None], d), strict=True):
            assert torch.equal(new, old.to(new.dtype))
    assert pillars > 6


# ----- co-visibility


def test_what_is_behind_a_wall_is_not_seen():
    """Two cameras with nearly the same view, a wall between them."""
    house = make_house(1)
    door = next(d for d in house.plan.doors if d.axis == 0)
    x, z = door.at[0] - 0.5, door.middle + door.width / 2 + 0.4
    c2w = torch.eye(4).repeat(3, 1, 1)
    c2w[:, :3, :3] = rotation(torch.tensor([90.0, 90.0, 90.0]), torch.zeros(3))
    c2w[:, 0, 3], c2w[:, 2, 3] = torch.tensor([x, x - 0.3, door.at[1] + 0.5]), z
    share = CoVisibility(house.scene, c2w, pinhole(80.0, (64, 64), 3), (64, 64))(range(3), range(3))
    assert share.diagonal().min() > 0.95
    assert share[0, 1] > 0.5
    assert share[0, 2] < 0.05 and share[1, 2] < 0.2
    assert torch.equal(share, share.T)


def test_covisibility_of_some_pairs_is_that_of_all():
    world = make_world()
    t = world.trajectory(0)
    assert t.overlap is not None
    frames = range(0, len(t.c2w), 3)
    whole = t.overlap(frames, frames)
    assert torch.equal(t.overlap([frames[4], frames[2]], frames), whole[[4, 2]])
    assert torch.equal(t.overlap(frames, [frames[5]]), whole[:, 5:6])
    assert 0 <= whole.min() < 0.01 and whole.diagonal().min() > 0.95


def test_left_in_between_is_judged_by_the_truth():
    """A view that turns by half a field of view is not left, by the angle; the truth may know better (a wall), or worse."""
    c2w = integrate(parse("R40L40"), 0.1)
    assert find_pairs(c2w, 80.0, 1, 4, overlap=0.6)
    assert not find_pairs(c2w, 80.0, 1, 4, overlap=0.3)
    assert find_pairs(c2w, 80.0, 1, 4, overlap=0.3, truth=lambda rows, columns: torch.tensor([[float(k != 3) for k in columns] for _ in rows]))
    assert not find_pairs(c2w, 80.0, 1, 4, overlap=0.6, truth=lambda rows, columns: torch.ones(len(rows), len(columns)))
    far = integrate(parse("R180L180"), 0.1)
    by_hand = find_pairs(far, 80.0, 1, 4, overlap=0.3)  # 60 degrees would sit on the edge of 0.25
    turned = (torch.arange(len(far)).float() * 10).clamp(max=360 - 10 * torch.arange(len(far)).float())
    asked = find_pairs(far, 80.0, 1, 4, overlap=0.3, truth=lambda rows, columns: (1 - (turned[rows][:, None] - turned[columns]).abs() / 80).clamp(min=0))
    assert by_hand == asked


# ----- tours


@pytest.mark.parametrize(
    ("route", "frames", "returns", "step", "degrees"),
    [("any", 120, 1, 0.2, 10.0), ("any", 300, 2, 0.15, 10.0), ("far", 300, 1, 0.2, 7.5), ("loop", 270, 1, 0.25, 15.0), ("twins", 200, 1, 0.3, 9.0)],
)
def test_tours_close_exactly_and_stay_free(route, frames, returns, step, degrees):
    made = 0
    for seed in range(6):
        plan = plan_house(seed, twins=0.5)
        try:
            t = tour(plan, seed, frames, step, degrees, route, returns)
        except ValueError:
            continue
        made += 1
        assert t.c2w.shape == (frames, 4, 4) and t.actions.shape == (frames, 6)
        assert torch.allclose(t.c2w[0] @ integrate(t.actions, step), t.c2w, atol=1e-4), "actions lead elsewhere"
        assert ((t.actions[:, :4] == 0) | (t.actions[:, :4] == 1)).all() and t.actions[:, :4].sum(1).max() == 1, "one key at a time"
        assert all(plan.free(x, z) for x, z in t.c2w[:, [0, 2], 3].tolist())
        pairs = find_pairs(t.c2w, 80.0)
        assert all(torch.equal(t.c2w[p.first], t.c2w[p.revisit]) for p in pairs)
        assert len(t.circuits) == returns
        again = tour(plan, seed, frames, step, degrees, route, returns)
        assert torch.equal(again.c2w, t.c2w) and torch.equal(again.actions, t.actions)
    assert made >= 4


@pytest.mark.parametrize("name", ["houses", "houses_far", "houses_loop", "houses_twins"])
def test_presets_keep_their_word(name):
    world = make_world(name, size="[8,8]")
    for index in range(3):
        house, t = world.find(index)
        rooms = room_of(house, t.c2w)
        home = rooms[0]
        away = [i for i, r in enumerate(rooms) if r != home and r >= 0]
        gone = next(i for i, r in enumerate(rooms) if r != home)
        back = next(i for i in range(away[0], len(rooms)) if rooms[i] == home)
        pairs = find_pairs(t.c2w, 80.0, 1, 9)
        assert pairs and min(p.revisit for p in pairs) > away[0], "a view comes again before the room was left"
        here = (t.c2w[:, :3, 3] - t.c2w[0, :3, 3]).norm(dim=1) < 1e-6
        left = int((~here).nonzero()[0])
        assert (int(here[left:].nonzero()[0]) + 1) // 3 >= {"houses": 8, "houses_far": 40, "houses_loop": 30, "houses_twins": 16}[name]
        if name == "houses_loop":
            c = t.circuits[0]
            assert c.doors[0] != c.doors[-1]
            assert (t.c2w[gone, [0, 2], 3] - t.c2w[back, [0, 2], 3]).norm() > 0.5, "back by the same door"
        if name == "houses_twins":
            assert any(r not in (home, -1) and house.plan.rooms[r].looks == house.plan.rooms[home].looks for r in rooms[gone:back])


def test_a_hundred_chunks_and_several_returns():
    world = make_world("houses", chunks=100, returns=3, size="[8,8]", trajectories=2)
    house, t = world.find(1)
    assert len(t.c2w) == 300 and len(t.circuits) == 3
    trajectory = world.trajectory(1)
    assert len(trajectory.pairs) > 40
    assert len({(p.revisit - p.first) // 60 for p in trajectory.pairs}) > 1, "all gaps alike"


def test_the_world_gives_what_a_protocol_says():
    guided, free = make_world(), make_world(protocol="free")
    a, b = guided.trajectory(1), free.trajectory(1)
    assert torch.equal(a.reference, b.reference) and a.pairs == b.pairs and b.given == 3
    scored = min(p.revisit for p in a.pairs)
    assert a.given == scored // 3 * 3 > 3 and torch.equal(a.images, a.reference[: a.given])
    assert torch.equal(make_world().trajectory(1).reference, a.reference)
    assert len(set(guided.names)) == 2
    later = make_world(start=1, trajectories=1)
    assert later.names[0] == guided.names[1] and torch.equal(later.trajectory(0).reference, a.reference)
    other = make_world(split="validation").trajectory(1)
    assert not torch.equal(other.reference, a.reference)


def test_splits_share_no_house():
    seeds = {split: {make_world(split=split, trajectories=3).find(i)[0].seed for i in range(3)} for split in ("train", "validation", "test")}
    assert len(set.union(*seeds.values())) == 9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"route": "lop"}, "any, far, loop or twins"),
        ({"returns": 0}, "world.returns=0"),
        ({"chunks": 6}, "use more chunks"),
        ({"chunks": 40, "gap": 30}, "smaller gap"),
        ({"step": 0.5}, "at most 0.35"),
        ({"degrees": 14.0}, "divisor of 90"),
        ({"rooms": "[13,14]"}, "between 6 and 12"),
        ({"rooms": "[6]"}, "world.rooms"),
        ({"twins": 1.5}, "twins=1.5"),
        ({"split": "tset"}, "train, validation or test"),
        ({"protocol": "open"}, "guided or free"),
        ({"trajectories": 0}, "world.trajectories=0"),
        ({"start": -1}, "world.start=-1"),
    ],
)
def test_settings_that_no_house_has(settings, message):
    with pytest.raises(Exception, match=message):
        make_world(**settings)


def test_a_tour_that_no_house_has_is_told():
    with pytest.raises(ValueError, match="none of 40 houses has such a tour"):
        make_world(route="loop", chunks=30, loops=0.0).trajectory(0)
    plan = plan_house(0)
    with pytest.raises(ValueError, match="house 0 has no tour of 60 frames with route=loop"):
        tour(plan, 0, 60, 0.2, 10.0, "loop")


def test_points_outside_are_told():
    scene = make_house(0).scene
    with pytest.raises(ValueError, match="no cell of the scene holds the point"):
        cast(scene, torch.full((1, 3), math.pi * 100), torch.ones(1, 1, 3))
