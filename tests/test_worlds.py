"""Rooms, trajectories, revisits: against second routes and known answers."""

import math

import numpy as np
import pytest
import torch

from harness.worlds.base import given_frames
from harness.worlds.poses import angle, integrate, pinhole, rays, relative, rotation
from harness.worlds.revisits import find_pairs, outbound
from harness.worlds.rooms import SEEDS, cast, covisibility, make_room, place, render
from harness.worlds.scripted import PRESETS, pad, parse
from tests.conftest import make_world
from tests.tolerances import RENDER


def one_ray(room, o, d):
    """First surface by brute force in float64: every wall and pillar face as a plane with bounds."""
    best, lo, hi = (math.inf, None), room.lo.double().numpy(), room.hi.double().numpy()
    for axis in range(3):
        for side, at in enumerate((lo[axis], hi[axis])):
            t = (at - o[axis]) / d[axis]
            p = o + t * d
            others = [a for a in range(3) if a != axis]
            if t > 1e-9 and all(lo[a] - 1e-9 <= p[a] <= hi[a] + 1e-9 for a in others):
                best = min(best, (t, 2 * axis + side))
    for i, (x0, x1, z0, z1) in enumerate(room.pillars.double().numpy()):
        for axis, at, other, low, high in ((0, x0, 2, z0, z1), (0, x1, 2, z0, z1), (2, z0, 0, x0, x1), (2, z1, 0, x0, x1)):
            t = (at - o[axis]) / d[axis]
            if t > 1e-9 and low <= (o + t * d)[other] <= high:
                best = min(best, (t, 6 + i))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_casting_equals_brute_force(seed):
    room, g = make_room(seed), torch.Generator().manual_seed(seed)
    world, _ = place(g, room, integrate(parse("WRD40", 10.0), 0.1))
    k = pinhole(80.0, (8, 8), len(world))
    o, d = rays(world, k, (8, 8))
    hit = cast(room, o, d)
    for f in (0, len(world) - 1):
        for n in range(0, 64, 5):
            depth, surface = one_ray(room, o[f].double().numpy(), d[f, n].double().numpy())
            assert abs(hit.depth[f, n].item() - depth) < 1e-4 * max(1, depth)
            assert hit.surface[f, n].item() == surface


def test_rendering_is_a_function_of_pose_alone():
    room = make_room(3)
    c2w = integrate(parse("R_L60", 10.0), 0.0)
    frames = render(room, c2w, pinhole(80.0, (16, 16), len(c2w)), (16, 16))
    assert torch.equal(frames[0], frames[6 + 3 + 6])
    alone = render(room, c2w[4:5], pinhole(80.0, (16, 16), 1), (16, 16))
    assert torch.allclose(frames[4:5], alone, atol=RENDER)
    assert (frames[0] - frames[6]).abs().mean() > 0.02
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_rooms_repeat_by_seed_and_splits_are_disjoint():
    assert torch.equal(make_room(5).textures, make_room(5).textures)
    assert not torch.equal(make_room(5).textures, make_room(6).textures)
    spans = [(r.start, r.stop) for r in SEEDS.values()]
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_covisibility_is_full_for_itself_and_none_behind():
    room = make_room(1)
    c2w = place(torch.Generator().manual_seed(0), room, integrate(parse("R180", 10.0), 0.0))[0]
    share = covisibility(room, c2w, pinhole(80.0, (16, 16), len(c2w)), (16, 16))
    assert torch.equal(share, share.T)
    assert share.diagonal().min() > 0.95
    assert share[0, -1] == 0
    assert 0.6 < share[0, 1] < 1


def test_actions_integrate_and_close():
    c2w = integrate(parse("WR_LS90", 10.0), 0.12)
    assert torch.equal(c2w[0], torch.eye(4))
    assert torch.allclose(c2w[-1], torch.eye(4), atol=1e-6)
    assert torch.allclose(c2w[6, :3, 3], torch.tensor([0.0, 0.0, 0.72]), atol=1e-6)
    right = integrate(parse("R90", 10.0), 0.1)[-1]
    assert torch.allclose(right[:3, 2], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6), "after a right turn the camera looks along x"
    up = rotation(torch.tensor(0.0), torch.tensor(30.0))
    assert up[1, 2] < 0, "pitching up looks towards -y (y points down)"
    loop = integrate(parse("R90R90R90R90", 10.0), 0.1)
    assert torch.allclose(loop[-1], torch.eye(4), atol=1e-6)


def test_relative_poses_and_angles():
    c2w = integrate(parse("WRD50", 10.0), 0.2)
    back = relative(c2w, c2w[5])
    assert torch.allclose(back[5], torch.eye(4), atol=1e-6)
    assert torch.allclose(c2w[5] @ back, c2w, atol=1e-5)
    eye = torch.eye(3)
    for degrees in (0.0, 0.01, 2.0, 90.0, 179.0):
        turned = rotation(torch.tensor(degrees), torch.tensor(0.0))
        assert abs(angle(eye, turned).item() - degrees) < 1e-3 + 1e-3 * (degrees > 178)


@pytest.mark.parametrize(
    ("spec", "frames"), [("R_L_R_L90", 4 * 9 + 9 + 1), ("WLWR120", 12 + 24 + 1), ("RLWSRL90", 36 + 12 + 1), ("R20L40", 2 + 4 + 1), ("_", 4)]
)
def test_grammar(spec, frames):
    assert len(parse(spec, 10.0, 6, 3)) == frames
    assert len(pad(parse(spec), 3)) % 3 == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("RXL90", "cannot read 'X'"),
        ("RL", "needs an angle"),
        ("R95", "no multiple"),
        ("", "cannot read"),
        ("90", "cannot read"),
        ("R0", "no multiple"),
        ("W10_R90", "W10 has a number"),
    ],
)
def test_grammar_errors(spec, message):
    with pytest.raises(ValueError, match=message):
        parse(spec)


def test_presets_return():
    for name in PRESETS:
        assert find_pairs(integrate(parse(name), 0.12), 80.0), f"{name} never comes back to a view it had left"


def test_pairs_equal_brute_force():
    c2w = integrate(parse("R90L90R30_L30"), 0.12)
    yaw = torch.atan2(c2w[:, 0, 2], c2w[:, 2, 2]).rad2deg().numpy()
    expected = []
    for j in range(len(yaw)):
        i = next(i for i in range(len(yaw)) if abs(yaw[i] - yaw[j]) < 0.05)
        if j - i >= 9 and min(1 - abs(yaw[k] - yaw[i]) / 80 for k in range(i, j + 1)) < 0.3:
            expected.append((i, j))
    pairs = find_pairs(c2w, 80.0, overlap=0.3)  # 60 degrees would sit on the edge of 0.25
    assert [(p.first, p.revisit) for p in pairs] == expected
    assert len(expected) > 5
    assert all(p.gap_degrees < 0.05 for p in pairs)
    assert all(abs(yaw[p.unrelated] - yaw[p.first]) >= np.abs(yaw - yaw[p.first]).max() - 0.1 for p in pairs)


def test_pairs_after_rounding_to_latent_frames():
    """With four video frames a latent frame, only frames at latent poses pair, and they have one phase."""
    c2w = integrate(parse("R_L180", 5.0, 6, 4), 0.1)
    pairs = find_pairs(c2w, 80.0, stride_px=4)
    assert pairs
    assert all(p.first % 4 == p.revisit % 4 == 0 for p in pairs)


def test_outbound_and_protocols():
    c2w = integrate(pad(parse("R_L90"), 3), 0.1)
    assert outbound(c2w) == 13, "9 turns, 3 holds at the end: frame 13 is the first to return"
    assert given_frames(c2w, "free", 3) == 3
    assert given_frames(c2w, "guided", 3) == 12
    with pytest.raises(ValueError, match="guided, free"):
        given_frames(c2w, "open", 3)


def test_world_is_a_function_of_its_index():
    world = make_world(["R_L90", "WR_LS90"], trajectories=3)
    again = make_world(["R_L90", "WR_LS90"], trajectories=3)
    assert len(set(world.names)) == 3
    a, b = world.trajectory(1), again.trajectory(1)
    assert torch.equal(a.reference, b.reference)
    assert torch.equal(a.images, a.reference[: a.given])
    assert len(a.c2w) % 3 == 0


@pytest.mark.parametrize("index", range(8))
def test_pairs_survive_any_place_in_any_room(index):
    """The start pose's rounding must not lose pairs: the same number as around the origin."""
    world = make_world(["R_L180", "WR_LS120"], trajectories=8, degrees=10.0, move_frames=6, min_gap=9, overlap=0.3)
    t = world.trajectory(index)
    at_origin = find_pairs(integrate(t.actions, 0.12), 80.0, overlap=0.3)
    assert [(p.first, p.revisit) for p in t.pairs] == [(p.first, p.revisit) for p in at_origin]
    assert all(p.gap_metres < 1e-4 for p in t.pairs)
