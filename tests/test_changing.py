"""Rooms that change while nobody looks: each frame against the room of its time, and what is out of sight against all pixels of both."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbones.rooms import TinyRoomsBackbone
from harness.evaluation.probes import Probes, cannot
from harness.settings.build import build
from harness.worlds.houses import make_house
from harness.worlds.houses_world import HousesWorld
from harness.worlds.render import render
from harness.worlds.revisits import find_pairs
from harness.worlds.rooms import make_room
from tests.conftest import CONF, make_world


@pytest.fixture(scope="module")
def worlds():
    shape = dict(specs=["R180_L180"], trajectories=3, degrees=15.0, repeat=2, split="validation", size=(32, 48))
    return make_world(**shape), make_world(**shape, changes=1.0)


@pytest.mark.parametrize("index", range(3))
def test_frames_show_the_room_of_their_time(index, worlds):
    """Poses, actions and geometry are those of the room that does not change. Up to the change so are the pixels; from there on they are those of a
    room with the other textures, and at the change itself, where the same view is rendered of both, no pixel differs."""
    plain, changing = (w.trajectory(index) for w in worlds)
    assert torch.equal(plain.c2w, changing.c2w) and torch.equal(plain.actions, changing.actions)
    room, size = make_room(worlds[0].seeds[index]), (32, 48)
    found = worlds[1].change(room, worlds[0].seeds[index], plain.c2w, plain.intrinsics)
    assert found.surfaces and all(s in (0, 1, 4, 5) or s >= 6 for s in found.surfaces)
    same = (plain.reference == changing.reference).flatten(1).all(1)
    assert same[: found.at + 1].all(), "something changed in sight"
    assert not same[found.at :].all()
    for i in range(found.at, len(plain.c2w)):
        assert torch.equal(changing.reference[i], render(found.after, plain.c2w[i : i + 1], plain.intrinsics[i : i + 1], size)[0])
    others, before = [s for s in range(len(room.textures)) if s not in found.surfaces], room.scene
    assert torch.equal(found.after.textures[others], before.textures[others]) and found.after.cells == before.cells
    assert all((found.after.textures[s] - before.textures[s]).abs().mean() > 0.02 for s in found.surfaces)


@pytest.mark.parametrize("index", range(3))
def test_what_is_given_shows_the_change_and_pairs_come_after_it(index, worlds):
    """Every view of a pair was given after the change, and differs there from the view of the room before it."""
    plain, path = (w.trajectory(index) for w in worlds)
    at = worlds[1].change(make_room(worlds[0].seeds[index]), worlds[0].seeds[index], path.c2w, path.intrinsics).at
    assert path.given % 3 == 0 and at < path.given < len(path.c2w) and path.pairs
    known = {(p.first, p.revisit) for p in find_pairs(path.c2w[at:], 80.0, min_gap=6, overlap=0.5)}
    for p in path.pairs:
        assert at <= p.first < path.given <= p.revisit
        assert (p.first - at, p.revisit - at) in known
        assert torch.equal(path.reference[p.first], path.reference[p.revisit])
        assert (path.reference[p.first] - plain.reference[p.first]).abs().mean() > 0.005
    left = {(p.first + at, p.revisit + at) for p in find_pairs(path.c2w[at:], 80.0, min_gap=6, overlap=0.5)} - {(p.first, p.revisit) for p in path.pairs}
    assert all((path.reference[a] == plain.reference[a]).float().mean() > 0.8 for a, _ in left), "a view of what has changed is left out"


def test_the_share_is_of_what_is_out_of_sight():
    world, all_of_it = (make_world(["R180_L180"], trajectories=12, degrees=15.0, repeat=2, changes=share) for share in (0.5, 1.0))
    counts = []
    for i in range(12):
        path, seed = world.trajectory(i), world.seeds[i]
        half, whole = (w.change(make_room(seed), seed, path.c2w, path.intrinsics) for w in (world, all_of_it))
        assert set(half.surfaces) <= set(whole.surfaces) and len(half.surfaces) == max(1, round(0.5 * len(whole.surfaces)))
        again = all_of_it.change(make_room(seed), seed, path.c2w, path.intrinsics)
        assert torch.equal(again.after.textures, whole.after.textures)
        counts.append(len(whole.surfaces))
    assert max(counts) > 1


def test_what_cannot_change_is_refused():
    with pytest.raises(ValueError, match="use guided"):
        make_world(["R180_L180"], protocol="free", changes=0.5)
    with pytest.raises(ValueError, match="never comes back"):
        make_world(["R90"], changes=0.5).trajectory(0)
    with pytest.raises(ValueError, match="turns further"):
        make_world(["R15L15"], changes=0.5).trajectory(0)
    once = make_world(["R180_L180"], changes=1.0).trajectory(0)
    assert not once.pairs and "world.repeat" in once.no_pairs


def test_every_path_of_the_preset_has_pairs():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["world=rooms_changing", "world.split=validation", "world.trajectories=8", "world.size=[16,16]"])
    world = build(cfg.world, "world")
    paths = [world.trajectory(i) for i in range(8)]
    assert all(len(p.pairs) > 5 for p in paths), [len(p.pairs) for p in paths]


@pytest.fixture(scope="module")
def houses():
    """A house as it is, and as it changes."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["world=houses_changing", "world.split=validation", "world.trajectories=2", "world.size=[16,16]"])
    changing = build(cfg.world, "world")
    cfg.world.changes = 0.0
    return build(cfg.world, "world"), changing


def test_houses_change_on_the_way(houses):
    """Pixels are those of the house of their time; nothing changes in sight; every pair was seen, as it is, after the change, and is scored later."""
    for index in range(2):
        plain, path = (w.trajectory(index) for w in houses)
        house, _ = houses[0].find(index)
        found = houses[1].change(house, plain.pairs, plain.c2w, plain.intrinsics)
        assert torch.equal(plain.c2w, path.c2w) and 0 < found.at < path.given and path.given % 3 == 0
        same = (plain.reference == path.reference).flatten(1).all(1)
        assert same[: found.at + 1].all() and not same[found.at :].all()
        for i in (found.at - 1, found.at, len(path.c2w) - 1):
            scene = found.before if i < found.at else found.after
            assert torch.equal(path.reference[i], render(scene, path.c2w[i : i + 1], path.intrinsics[i : i + 1], (16, 16))[0])
        assert len(path.pairs) > 5
        for p in path.pairs:
            assert found.at <= p.first < path.given <= p.revisit and torch.equal(path.reference[p.first], path.reference[p.revisit])
            assert (path.reference[p.first] - plain.reference[p.first]).abs().mean() > 0.005


def test_a_house_is_painted_anew(houses):
    house, _ = houses[0].find(0)
    other = make_house(house.seed, *houses[0].house, coat=house.seed + 1)
    assert other.scene.cells == house.scene.cells and other.scene.textures.shape == house.scene.textures.shape
    assert (other.scene.textures - house.scene.textures).abs().mean((1, 2, 3)).min() > 0.005
    assert torch.equal(make_house(house.seed, *houses[0].house, coat=house.seed).scene.textures, house.scene.textures)


def test_views_from_before_a_change_show_nothing_of_what_changed(houses):
    """By pixels: points that two views of one pose share across the change are those where the pictures agree."""
    plain, path = (w.trajectory(0) for w in houses)
    house, _ = houses[0].find(0)
    at = houses[1].change(house, plain.pairs, plain.c2w, plain.intrinsics).at
    first, later = next(
        (p.first, p.revisit) for p in plain.pairs if p.first < at < p.revisit and (plain.reference[p.revisit] != path.reference[p.revisit]).any()
    )
    assert plain.overlap([first], [later]).item() == 1.0 and path.overlap([first], [later]).item() < 1.0
    shared = path.overlap.surface([later], [first])[0, :, 0]
    picture = (plain.reference[later] == path.reference[later]).all(0)  # of the same pose: what has not changed
    block = picture.unflatten(0, (8, 2)).unflatten(2, (8, 2))
    assert shared[block.all(3).all(1).flatten()].all(), "points whose surroundings look as before"
    assert not shared[(~block).all(3).all(1).flatten()].any(), "points whose surroundings look otherwise"
    assert path.overlap([later], [later + 1]).item() == plain.overlap([later], [later + 1]).item(), "after the change all is as it looks"


def test_houses_that_cannot_change(houses):
    settings = dict(trajectories=1, chunks=60, route="any", gap=8, split="validation", start=0, size=(16, 16), fov=80.0, step=0.2, degrees=10.0)
    settings |= dict(rooms=(6, 12), twins=0.25, loops=0.75, min_gap=9, overlap=0.25, chunk_px=3, changes=0.5)
    with pytest.raises(ValueError, match="use guided"):
        HousesWorld(**settings, returns=2, protocol="free")
    with pytest.raises(ValueError, match=r"use world\.returns=2"):
        HousesWorld(**settings, returns=1, protocol="guided")
    assert "an earlier view is not what is there now" in cannot(TinyRoomsBackbone(), Probes(4), None, houses[1].changing) and not houses[0].changing
