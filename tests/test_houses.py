"""Houses, and the world made of them: plans, doors, furniture and looks; protocols, splits, settings."""

import itertools

import numpy as np
import pytest
import torch

from harness.worlds.houses import make_house
from harness.worlds.plans import SIDES, make_plan
from harness.worlds.raycast import cast
from harness.worlds.tours import LONGEST_STEP, circuits
from harness.worlds.tours import _legs as ways
from harness.worlds.walks import Walk
from tests.some_houses import make_world


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
    with pytest.raises(ValueError, match=message):
        make_world(**settings)
