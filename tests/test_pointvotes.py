"""Votes of points: loops over single points in float64, with a dictionary of voxels and a z-buffer of their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.cache.stores import GpuStore
from harness.datatypes import KV
from harness.session import Session
from harness.worlds.chunks import chunks_of, shown_at
from policies.parts.cells import first_of_each
from tests.conftest import make_policy, make_world


@pytest.fixture(scope="module")
def wander():
    return make_world(["WR60WL150R30SDR105WL60A"], degrees=15.0).trajectory(0)


def cloud(path, g, voxel, gone=()):
    """Chunk by chunk: the points that each added."""
    taken, added = set(), []
    for chunk in chunks_of(path, g):
        mine = []
        for p in shown_at(path, g, chunk.index)().double().flatten(0, 1).numpy():
            cell = tuple(np.floor(p.astype(np.float32) / np.float32(voxel)).astype(int)) if voxel else len(taken)
            if cell not in taken:
                taken.add(cell)
                mine.append(p)
        added.append([] if chunk.index in gone else mine)
    return added


def votes(added, upto, target, grid, slack):
    found = np.zeros(upto)
    for c2w, (fx, fy, cx, cy) in zip(target.c2w.double().numpy(), target.intrinsics.double().numpy(), strict=True):
        world_to_camera, parts = np.linalg.inv(c2w), {}
        for c in range(upto):
            for p in added[c]:
                x, y, z = (world_to_camera @ [*p, 1])[:3]
                u, v = (x / z * fx + cx, y / z * fy + cy) if z > 0 else (-1, -1)
                if 0 < u < 2 * cx and 0 < v < 2 * cy:
                    parts.setdefault((int(v / (2 * cy) * grid), int(u / (2 * cx) * grid)), []).append((z, c))
        for here in parts.values():
            nearest = min(here)[0]
            for z, c in here:
                if z <= nearest * (1 + slack):
                    found[c] += 1 / (1 + z)
    return found


@pytest.mark.parametrize(("voxel", "grid", "slack"), [(0.3, 8, 0.1), (0.1, 16, 0.1), (0.0, 6, 0.02)])
def test_votes_point_by_point(voxel, grid, slack, wander, backbone, roll):
    settings = [f"policy.selector.{k}={v}" for k, v in dict(voxel=voxel, grid=grid, slack=slack).items()]
    stats = roll(make_policy("pointvotes_true", *settings, "policy/compressor=none", "policy.retrieved=6"), path=wander).stats
    chunks, added, decided = chunks_of(wander, backbone.geometry), cloud(wander, backbone.geometry, voxel), 0
    for s in stats[5::2]:
        found = votes(added, s.chunk, chunks[s.chunk], grid, slack)
        chosen, candidates = {f // 3 for f in s.retrieved}, range(1, s.chunk - 1)
        rest = [found[c] for c in candidates if c not in chosen]
        assert len(chosen) == 2 and min(found[c] for c in chosen) >= max(rest) - 2e-2, found  # a point at the edge of a part may fall to either side
        decided += min(found[c] for c in chosen) > max(rest) + 0.1
    assert decided >= 3, "no choice was clear"


def test_a_voxel_belongs_to_the_first_that_showed_it(wander, backbone):
    """Standing still adds nothing; what a chunk alone showed goes with it, and what another showed too is that one's from then on."""
    g, policy = backbone.geometry, make_policy("pointvotes_true")
    selector = policy.selector
    selector.reset(g)
    chunks = chunks_of(wander, g)
    for chunk in (chunks[0], chunks[1], chunks[1]):
        selector.observe(chunk, KV(*[torch.empty(0)] * 4, points=shown_at(wander, g, chunk.index)))
    added = cloud(wander, g, 0.1)
    assert [int((selector._owner == c).sum()) for c in (0, 1)] == [len(added[0]), len(added[1])]
    shown = {tuple(np.floor(p / np.float32(0.1)).astype(int)) for p in shown_at(wander, g, 1)().flatten(0, 1).numpy()}
    selector.forget(0)
    assert len(selector._points) == int((selector._owner == 1).sum()) == len(shown) > len(added[1])
    selector.forget(1)
    assert not len(selector._points) and not len(selector._shown)
    assert first_of_each(torch.tensor([5, 3, 5, 3, 7])).tolist() == [True, True, False, False, True]


def test_points_are_those_of_chunks_that_were_made(wander, backbone):
    """The true points lie on what the views of the path show; a fork that jumps back is told of the views it jumped to."""
    told = []
    policy = make_policy("full")
    keep = policy.commit
    policy.commit = lambda chunk, kv, bank: (told.append((chunk.index, kv.points())), keep(chunk, kv, bank))[1]  # type: ignore[method-assign]
    session = Session.begin(backbone, policy, GpuStore(), wander, 0, backbone.encode(wander.images)[:3])
    for _ in range(4):
        session.step()
    probe = session.fork()
    probe.policy.commit = policy.commit
    probe.revisit([3, 4, 5])
    assert [i for i, _ in told] == [0, 1, 2, 3, 4] and torch.equal(told[4][1], told[1][1])
    for index, points in told[:4]:
        depth = (points - wander.c2w[3 * index : 3 * index + 3, None, :3, 3]).norm(dim=-1)
        assert points.shape == (3, 64, 3) and (depth > 0.05).all() and (depth < 20).all()


def test_predicted_depth_that_is_true_gives_the_true_points(wander, backbone):
    """8 x 8 rays a view, whatever the head's grid: those of the world, along the same rays."""
    g, policy = backbone.geometry, make_policy("pointvotes")
    for chunk in chunks_of(wander, g)[:3]:
        exact = KV(*[torch.empty(0)] * 4, points=shown_at(wander, g, chunk.index), depth=lambda frames=chunk.frames: wander.overlap.depth(frames, (8, 8)))
        mine = policy.selector.points(chunk, exact)
        assert mine.shape == (3, 64, 3)
        torch.testing.assert_close(mine, exact.points(), atol=2e-3, rtol=0)
        finer = replace(exact, depth=lambda frames=chunk.frames: wander.overlap.depth(frames, (24, 24)))  # the middle of every 3 x 3 is the ray
        torch.testing.assert_close(policy.selector.points(chunk, finer), exact.points(), atol=2e-3, rtol=0)


def test_depth_is_predicted_from_the_latents_of_the_chunk(wander, backbone, roll):
    """By the head of the backbone, frame by frame; a backbone without one is refused with what to do."""
    told = []
    policy = make_policy("pointvotes")
    observe = policy.selector.observe
    policy.selector.observe = lambda chunk, kv: (told.append((chunk.index, kv)), observe(chunk, kv))[1]
    out = roll(policy, path=wander)
    for index, kv in told:
        latents = out.latents[3 * index : 3 * index + 3]
        with torch.no_grad():
            assert torch.equal(kv.depth(), backbone.depth_head(latents.transpose(1, 2).unflatten(2, backbone.grid)))
    assert len(told) > 5
    with pytest.raises(ValueError, match="no head that predicts it.*use policy=pointvotes_true"):
        policy.selector.points(chunks_of(wander, backbone.geometry)[0], KV(*[torch.empty(0)] * 4, depth=lambda: None))


def test_a_world_without_geometry_is_refused(roll, trajectory):
    with pytest.raises(ValueError, match="point votes need true depth"):
        roll(make_policy("pointvotes_true"), path=replace(trajectory, overlap=None))


def test_rays_of_a_wide_picture_reach_both_sides():
    """Co-visibility samples the whole view; before, of 16 x 24 pixels the left two thirds alone."""
    world = make_world(["WR60"])
    path = world.trajectory(0)
    points = path.overlap.shown([0])[0]
    x, _, z = ((points - path.c2w[0, :3, 3]) @ path.c2w[0, :3, :3]).unbind(-1)
    column = x / z * path.intrinsics[0, 0] + path.intrinsics[0, 2]
    assert torch.allclose(column.view(8, 8)[0], (torch.arange(8) + 0.5) * 3, atol=1e-3)
