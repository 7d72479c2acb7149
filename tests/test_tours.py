"""Tours of houses: they close exactly, go as their presets say, and are refused where no house has one."""

import pytest
import torch

from harness.worlds.houses import plan_house
from harness.worlds.poses import integrate
from harness.worlds.revisits import find_pairs
from harness.worlds.tours import tour
from tests.some_houses import make_world, room_of


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
        assert pairs and all(torch.equal(t.c2w[p.first], t.c2w[p.revisit]) for p in pairs)
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


def test_a_tour_that_no_house_has_is_told():
    with pytest.raises(ValueError, match="none of 40 houses has such a tour"):
        make_world(route="loop", chunks=30, loops=0.0).trajectory(0)
    plan = plan_house(0)
    with pytest.raises(ValueError, match="house 0 has no tour of 60 frames with route=loop"):
        tour(plan, 0, 60, 0.2, 10.0, "loop")
