"""Selectors against second routes: loops over single points, enumeration of every set, attention over single rows."""

import itertools

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from harness.datatypes import KV, Chunk, Geometry, Site
from harness.worlds.chunks import chunk_at, chunks_of
from harness.worlds.houses_world import HousesWorld
from harness.worlds.poses import integrate, pinhole
from policies.parts.select.controls import OracleSelector, RandomSelector, RecencySelector
from policies.parts.select.coverage import CoverageSelector
from policies.parts.select.fov import FovSelector
from policies.parts.select.frustum import Sight
from policies.parts.select.latent import LatentSelector
from policies.parts.select.pose import PoseSelector
from policies.parts.select.probe_points import probes
from policies.parts.select.query import QuerySelector
from tests.conftest import CONF, make_policy, make_world

SIZE = (16, 24)


def walk(seed: int, chunks: int = 8) -> list[Chunk]:
    """A random walk that turns and steps, in chunks of three frames."""
    g = torch.Generator().manual_seed(seed)
    actions = torch.zeros(3 * chunks, 6)
    actions[:, 0] = torch.rand(3 * chunks, generator=g)
    actions[:, 4] = 50 * torch.randn(3 * chunks, generator=g)
    c2w, k = integrate(actions, 0.5), pinhole(80.0, SIZE, 3 * chunks)
    return [Chunk(i, 3 * i, c2w[3 * i : 3 * i + 3], k[3 * i : 3 * i + 3], actions[3 * i : 3 * i + 3]) for i in range(chunks)]


def watched(selector, chunks, geometry):
    selector.reset(geometry)
    for chunk in chunks:
        selector.observe(chunk, None)
    return selector


def seen_by_loops(target: Chunk, i: int, past: Chunk, j: int, s: FovSelector | CoverageSelector) -> np.ndarray:
    """Which probes of one view another one sees, through 4x4 inverses and pixels, one point at a time."""
    fx, fy, cx, cy = (float(v) for v in target.intrinsics[i])
    world_to_camera = np.linalg.inv(past.c2w[j].double().numpy())
    out = []
    for row in range(s.grid):
        for column in range(s.grid):
            for shell in range(s.shells):
                z = s.near * (s.far / s.near) ** ((shell + 0.5) / s.shells)
                u, v = 2 * cx * (column + 0.5) / s.grid, 2 * cy * (row + 0.5) / s.grid
                point = target.c2w[i].double().numpy() @ [(u - cx) / fx * z, (v - cy) / fy * z, z, 1]
                x, y, z = (world_to_camera @ point)[:3]
                out.append(0 < z < s.far and 0 <= x / z * fx + cx <= 2 * cx and 0 <= y / z * fy + cy <= 2 * cy)
    return np.array(out)


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_fov_equals_points_one_by_one(seed, mutual, backbone):
    *past, target = walk(seed, 5)
    selector = watched(FovSelector(grid=3, shells=2, mutual=mutual), past, backbone.geometry)
    scores = []
    for chunk in past:
        share = np.array([[seen_by_loops(target, i, chunk, j, selector).mean() for j in range(3)] for i in range(3)])
        if mutual:
            share = np.minimum(share, [[seen_by_loops(chunk, j, target, i, selector).mean() for j in range(3)] for i in range(3)])
        scores.append(round(share.max(1).mean(), 6))
    assert len(set(scores)) > 1
    assert list(selector.order(target, [0, 1, 2, 3], [])) == sorted(range(4), key=lambda c: (-scores[c], c))


@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_fov_looks_closely_at_few_and_orders_all(seed, mutual, backbone, monkeypatch):
    """Every chunk's score by whole tensors in float64, without bounds: the same order to the last, and the first ten without looking at all."""
    *past, target = walk(seed, 81)
    s = watched(FovSelector(mutual=mutual), past, backbone.geometry)

    def share(points, c2w, intrinsics):
        x, y, z = ((points[None] - c2w[:, None, :3, 3]) @ c2w[:, :3, :3]).double().unbind(-1)
        fx, fy, cx, cy = intrinsics.double().T[..., None]
        return ((z > 0) & (z < s.far) & ((x * fx / cx).abs() <= z) & ((y * fy / cy).abs() <= z)).double()

    scores = []
    for c in past:
        there = share(probes(target.c2w, target.intrinsics, 8, 4, s.near, s.far).flatten(0, 1), c.c2w, c.intrinsics).unflatten(1, (3, -1)).mean(-1)
        if mutual:
            points = probes(c.c2w, c.intrinsics, 8, 4, s.near, s.far).flatten(0, 1)
            there = there.minimum(share(points, target.c2w, target.intrinsics).unflatten(1, (3, -1)).mean(-1).T)
        scores.append(round(there.amax(0).mean().item(), 6))
    looked = []
    views = Sight.views
    monkeypatch.setattr(Sight, "views", lambda sight, some: looked.extend(some) or views(sight, some))
    order = s.order(target, list(range(80)), [])
    first = list(itertools.islice(order, 10))
    assert len(set(looked)) == len(looked) < 80
    assert [*first, *order] == sorted(range(80), key=lambda c: (-scores[c], c))


def test_latent_equals_cosines_one_by_one(backbone):
    g, rng = backbone.geometry, torch.Generator().manual_seed(0)
    chunks = walk(0, 6)
    rows = 3 * g.tokens
    azimuth = torch.tensor([3.0, -3.1, -2.9])  # of the columns, which look to either side of half a turn
    grid = torch.stack(torch.meshgrid(torch.arange(2.0), azimuth, indexing="ij"), -1).flatten(0, 1)
    positions = torch.cat([torch.arange(3.0).repeat_interleave(6)[:, None], grid.repeat(3, 1)], 1)
    assert g.columns == 3
    for cells in (1, 2):
        s = LatentSelector(grid=cells, newest=3)
        s.reset(g)
        v = torch.randn(g.layers, 1, rows, g.heads, g.head_dim, generator=rng)  # says nothing of the latents
        latents = [torch.randn(1, 3, 6, 5, generator=rng) for _ in range(5)]
        for chunk, x in zip(chunks, latents, strict=False):
            s.observe(chunk, KV(v, v, v, positions, x))
        first = [x[0].flatten(0, 1).numpy() for x in latents]
        with pytest.raises(ValueError, match="came without latents"):
            s.observe(chunks[0], KV(v, v, v, positions))
        bins = [[0] * 6] if cells == 1 else [[0, 0, 1, 2, 2, 3]]  # two rows of three tokens: the middle one falls to the left

        def descriptor(v, f, bins=bins[0]):
            part = v[6 * f : 6 * f + 6]
            return np.concatenate([part[[i for i in range(6) if bins[i] == b]].mean(0) for b in sorted(set(bins))])

        query = descriptor(first[4], 2)
        cosine = [max(d @ query / np.linalg.norm(d) / np.linalg.norm(query) for d in (descriptor(v, f) for f in range(3))) for v in first]
        assert s.order(chunks[5], [0, 1, 2, 3], [12, 13, 14]) == [*sorted([0, 1, 2], key=lambda c: -cosine[c]), 3]
        s.newest = 4  # the fourth is of the chunk before: it counts whole
        assert s.order(chunks[5], [0, 1, 2, 3], [12, 13, 14]) == [*sorted([0, 1], key=lambda c: -cosine[c]), *sorted([2, 3], key=lambda c: -cosine[c])]


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("heads", ["sum", "vote"])
@pytest.mark.parametrize("bound", ["mean", "quest"])
def test_query_scores_one_by_one(bound, heads, parts, backbone):
    g, rng = backbone.geometry, torch.Generator().manual_seed(1)
    rows, chunks = 3 * g.tokens, walk(0, 5)
    s = QuerySelector(bound=bound, heads=heads, parts=parts)
    s.reset(g)
    keys = [torch.randn(g.layers, 1, rows, g.heads, g.head_dim, generator=rng) for _ in range(4)]
    queries = torch.randn(g.layers, 1, rows, g.heads, g.head_dim, generator=rng)
    for layer in range(g.layers):
        s.look(queries[layer], Site(layer, 0, False, 0, 4, probe=True))
        s.look(queries[layer] * 9, Site(layer, 4, True, 0, 4))  # the chunk's own passes are not looked at
    for chunk, k in zip(chunks, keys, strict=False):
        s.observe(chunk, KV(k, k, k, torch.zeros(rows, 3)))
    votes = []
    for layer in range(g.layers):
        for head in range(g.heads):
            for part in range(parts):
                at = slice(part * rows // parts, (part + 1) * rows // parts)
                q = queries[layer, 0, at, head].double().numpy().mean(0)
                logits = []
                for k in keys:
                    frames = k[layer, 0, :, head].double().numpy().reshape(3, g.tokens, -1)
                    score = [q @ f.mean(0) for f in frames]
                    if bound == "quest":
                        score = [np.maximum(q * f.min(0), q * f.max(0)).sum() for f in frames]
                        assert all(s >= (f @ q).max() - 1e-9 for s, f in zip(score, frames, strict=True)), "no key exceeds the bound"
                    logits.append(max(score) / g.head_dim**0.5)
                votes.append(np.exp(logits) / np.exp(logits).sum() if heads == "vote" else np.array(logits))
    total = np.mean(votes, 0)
    assert s.order(chunks[4], [0, 1, 2, 3], []) == sorted(range(4), key=lambda c: -total[c])


@pytest.mark.parametrize("name", ["fov", "coverage", "worldkv"])
def test_the_chunk_of_the_same_poses_comes_first(name, roll, backbone):
    """On a way out and back, with room for one chunk, the view that was left is what comes back."""
    path = make_world(["R120_L120"], degrees=10.0).trajectory(0)
    chunks = chunks_of(path, backbone.geometry)
    stats = roll(make_policy(name, "policy.retrieved=1.7"), path=path).stats
    for s in stats[-3:]:
        distance = [(chunks[s.chunk].c2w[:, None] - chunks[c].c2w[None]).flatten(2).norm(dim=-1).amin(1).mean() for c in range(1, s.chunk - 1)]
        assert {f // 3 for f in s.retrieved} == {1 + int(np.argmin(distance))}


@pytest.mark.parametrize(
    ("selector", "override", "message"),
    [
        ("fov", "near=9", "near=9"),
        ("coverage", "again=1.5", "again=1.5"),
        ("latent", "grid=0", "grid=0"),
        ("query", "bound=max", "policy.selector.bound='max': use mean or quest"),
        ("query", "parts=5", "parts=5 does not divide the 18 rows"),
    ],
)
def test_bad_fields_are_refused(selector, override, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy("worldkv", f"policy/selector={selector}", f"policy.selector.{override}"))


def test_the_oracle_covers_the_most_surface_step_by_step(trajectory):
    """By counting: at every place the candidate that adds the most true surface points, each cast and occluded on its own."""
    chunk = chunk_at(trajectory, Geometry(1, 1, 4, 1, 3, 1, torch.float32, torch.device("cpu")), 9)
    window, candidates = [0, 1, 2, 24, 25, 26], [1, 2, 3, 4, 5, 6, 7]
    order = list(OracleSelector().order(chunk, candidates, window))
    assert sorted(order) == candidates
    truth = trajectory.overlap
    seen = torch.stack([truth.seen(truth._points[chunk.frames[0] : chunk.frames[-1] + 1], torch.full((3,), j)) for j in range(27)], 2)
    covered = seen[:, :, window].any(2)
    for place, chosen in enumerate(order):
        gains = {c: int((seen[:, :, 3 * c : 3 * c + 3].any(2) & ~covered).sum()) for c in order[place:]}
        assert gains[chosen] == max(gains.values()), (place, gains)
        covered |= seen[:, :, 3 * chosen : 3 * chosen + 3].any(2)


def test_the_oracle_covers_no_less_than_other_selectors():
    """On tours of houses, of the surface that sink and recent frames do not show: what 3 chunks of each selector add."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["world=houses", "world.trajectories=2", "world.split=validation"])
    world = instantiate(cfg.world, _convert_="all")
    assert isinstance(world, HousesWorld)
    g = Geometry(1, 1, 4, 1, 3, 1, torch.float32, torch.device("cpu"))
    total = {}
    for i in range(2):
        path = world.trajectory(i)
        for index in range(20, 40, 4):
            chunk = chunk_at(path, g, index)
            window, candidates = [0, 1, 2, *range(chunk.start - 3, chunk.start)], list(range(1, index - 1))
            surface = chunk.surface
            covered = surface[:, :, window].any(2)
            for selector in (OracleSelector(), CoverageSelector(), PoseSelector(), RandomSelector(), RecencySelector()):
                selector.reset(g)
                for c in range(index):
                    selector.observe(chunk_at(path, g, c), None)
                picked = list(itertools.islice(selector.order(chunk, candidates, window), 3))
                frames = [f for c in picked for f in range(3 * c, 3 * c + 3)]
                added = int((surface[:, :, frames].any(2) & ~covered).sum())
                total[type(selector).__name__] = total.get(type(selector).__name__, 0) + added
    print(total)
    assert total["OracleSelector"] > max(v for k, v in total.items() if k != "OracleSelector")
    assert total["RandomSelector"] < total["PoseSelector"]
