"""Rays and pictures of houses by a second route, and true co-visibility against known answers."""

import itertools
import math

import pytest
import torch

from harness.worlds.covisibility import CoVisibility
from harness.worlds.houses import make_house
from harness.worlds.poses import integrate, pinhole, rays, rotation
from harness.worlds.raycast import cast
from harness.worlds.render import render
from harness.worlds.revisits import find_pairs
from harness.worlds.rooms import EYE, make_room, place
from harness.worlds.rooms import cast as cast_room
from harness.worlds.scripted import parse
from tests.some_houses import make_world, views
from tests.tolerances import RENDER

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


def test_points_outside_are_told():
    scene = make_house(0).scene
    with pytest.raises(ValueError, match="no cell of the scene holds the point"):
        cast(scene, torch.full((1, 3), math.pi * 100), torch.ones(1, 1, 3))


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
