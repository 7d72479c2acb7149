"""Rooms that change while nobody looks: each frame against the room of its time, and what is out of sight against all pixels of both."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from harness.settings.build import build
from harness.worlds.changing import change
from harness.worlds.poses import pinhole
from harness.worlds.revisits import find_pairs
from harness.worlds.rooms import make_room, render
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
    found = change(room, worlds[0].seeds[index], 1.0, plain.c2w, plain.intrinsics, size)
    assert found.surfaces and all(s in (0, 1, 4, 5) or s >= 6 for s in found.surfaces)
    same = (plain.reference == changing.reference).flatten(1).all(1)
    assert same[: found.at + 1].all(), "something changed in sight"
    assert not same[found.at :].all()
    for i in range(found.at, len(plain.c2w)):
        assert torch.equal(changing.reference[i], render(found.after, plain.c2w[i : i + 1], plain.intrinsics[i : i + 1], size)[0])
    others = [s for s in range(len(room.textures)) if s not in found.surfaces]
    assert torch.equal(found.after.textures[others], room.textures[others]) and torch.equal(found.after.pillars, room.pillars)
    assert all((found.after.textures[s] - room.textures[s]).abs().mean() > 0.02 for s in found.surfaces)


@pytest.mark.parametrize("index", range(3))
def test_what_is_given_shows_the_change_and_pairs_come_after_it(index, worlds):
    """Every view of a pair was given after the change, and differs there from the view of the room before it."""
    plain, path = (w.trajectory(index) for w in worlds)
    at = change(make_room(worlds[0].seeds[index]), worlds[0].seeds[index], 1.0, path.c2w, path.intrinsics, (32, 48)).at
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
    world = make_world(["R180_L180"], trajectories=12, degrees=15.0, repeat=2)
    counts = []
    for i in range(12):
        path, seed = world.trajectory(i), world.seeds[i]
        half, whole = (change(make_room(seed), seed, share, path.c2w, path.intrinsics, (16, 24)) for share in (0.5, 1.0))
        assert set(half.surfaces) <= set(whole.surfaces) and len(half.surfaces) == max(1, round(0.5 * len(whole.surfaces)))
        again = change(make_room(seed), seed, 1.0, path.c2w, path.intrinsics, (16, 24))
        assert torch.equal(again.after.textures, whole.after.textures)
        counts.append(len(whole.surfaces))
    assert max(counts) > 1


def test_what_cannot_change_is_refused():
    with pytest.raises(ValueError, match="use guided"):
        make_world(["R180_L180"], protocol="free", changes=0.5)
    with pytest.raises(ValueError, match="never comes back"):
        make_world(["R90"], changes=0.5).trajectory(0)
    with pytest.raises(ValueError, match="turn further"):
        make_world(["R15L15"], changes=0.5).trajectory(0)
    once = make_world(["R180_L180"], changes=1.0).trajectory(0)
    assert not once.pairs and "world.repeat" in once.no_pairs


def test_every_path_of_the_preset_has_pairs():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["world=rooms_changing", "world.split=validation", "world.trajectories=8", "world.size=[16,16]"])
    world = build(cfg.world, "world")
    paths = [world.trajectory(i) for i in range(8)]
    assert all(len(p.pairs) > 5 for p in paths), [len(p.pairs) for p in paths]
    assert pinhole(80.0, (16, 16), 1).shape == (1, 4)
