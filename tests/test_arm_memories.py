"""What arms remember beside K/V: a recurrent state, and pictures warped by depth."""

from dataclasses import replace

import pytest
import torch

from backbones.codecs import ConvCodec
from backbones.rooms import TinyRoomsBackbone, load_weights
from backbones.rooms_arms import memory_of
from backbones.rooms_geometry import DepthHead
from backbones.warp import points_of, project, splat
from harness.cache.stores import GpuStore
from harness.rollout import Snapshot, rollout
from harness.session import Session
from harness.training.clips import Phase, Scenery, collate, make_shot
from harness.training.depth import DepthClips, DepthTraining
from harness.worlds.covisibility import CoVisibility
from harness.worlds.raycast import cast
from harness.worlds.render import depths, render
from policies.full import FullPolicy
from tests.conftest import make_policy, with_arm
from tests.toy_arms import SCENERY, toy_base

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_base(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("arm", ["recurrent", "geometry"])
def test_a_memory_keeps_its_precision_beside_half_a_network(arm, trajectory):
    """In bfloat16 the state has the precision that it has in float32, and is near; so is what comes out."""
    outs = []
    for dtype in ("float32", "bfloat16"):
        backbone = TinyRoomsBackbone(arm=arm, dtype=dtype)
        out = rollout(backbone, make_policy(f"trained_{arm}"), GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:6], snapshot=Snapshot(chunks=3))
        outs.append((out, backbone.memory.state()))
    (whole, kept), (half, rounded) = outs
    assert [x.dtype for x in kept.values()] == [x.dtype for x in rounded.values()]
    for a, b in zip(kept.values(), rounded.values(), strict=True):
        assert (a.float() - b.float()).abs().mean() < 0.03 * a.float().abs().mean()
        assert a.dtype != torch.float32 or not torch.equal(b, b.bfloat16().float()), "the state was rounded"
    assert (whole.latents[:6] == half.latents[:6]).all() and (whole.latents - half.latents).abs().mean() < 0.1 * whole.latents.abs().mean()


def test_without_an_arm_nothing_changed(trajectory):
    """A memory that begins shut: the network is what it was without it."""
    plain, shut = TinyRoomsBackbone(), TinyRoomsBackbone()
    with torch.no_grad():
        shut.memory = memory_of("geometry", {"codec": {"channels": 4}, "network": {"width": 64}, "grid": (2, 3)})
    outs = [rollout(b, FullPolicy(), GpuStore(), trajectory, 0, b.encode(trajectory.images)[:3]) for b in (plain, shut)]
    assert torch.equal(outs[0].latents, outs[1].latents)
    assert outs[0].stats[-1].state_bytes == 0 and outs[1].stats[-1].state_bytes > 0


@pytest.mark.parametrize("arm", ["recurrent", "geometry"])
def test_state_is_counted_saved_opened_and_forked_to_the_bit(arm, trajectory, tmp_path):
    backbone, policy = with_arm(arm), make_policy(f"trained_{arm}")
    forced = backbone.encode(trajectory.images)[:3]
    whole = rollout(backbone, policy, GpuStore(), trajectory, 0, forced)
    held = [s.state_bytes for s in whole.stats]
    frame = 3 * 16 * 24 + 2 * 8 * 12 + 4 * 20  # colours, depths in 16 bits, pose and intrinsics
    assert held == ([4 * 2 * 32 * 512] * 11 if arm == "recurrent" else [3 * frame * (i + 1) for i in range(11)])
    rollout(backbone, policy, GpuStore(), trajectory, 0, forced, snapshot=Snapshot(save=tmp_path, chunks=6))
    again = rollout(backbone, policy, GpuStore(), trajectory, 0, forced, snapshot=Snapshot(load=tmp_path))
    assert torch.equal(again.latents, whole.latents)

    session = Session.begin(backbone, policy, GpuStore(), trajectory, 0, forced)
    for _ in range(5):
        session.step()
    fork = session.fork()
    fork.revisit(range(3, 6))
    fork.revisit(range(9, 12))
    for _ in range(6):
        session.step()
    assert torch.equal(session.rollout().latents, whole.latents), "a fork changed what it was forked from"
    straight = Session.begin(backbone, policy, GpuStore(), trajectory, 0, forced)
    for _ in range(5):
        straight.step()
    straight.revisit(range(3, 6))
    straight.revisit(range(9, 12))
    assert torch.equal(straight.latents.made, fork.latents.made)
    without = rollout(TinyRoomsBackbone(), make_policy("sink_recent"), GpuStore(), trajectory, 0, forced)
    assert (without.latents - whole.latents).abs().max() > 1e-3, "the memory says nothing"
    with pytest.raises(ValueError, match="cannot be encoded again"):
        rollout(backbone, make_policy("reencode"), GpuStore(), trajectory, 0, forced)


def test_a_recurrent_state_is_read_before_it_is_written():
    """The passes of the first chunk read nothing, the second chunk reads the first; and the clean pass writes after it has read."""
    cells = with_arm("recurrent").memory
    cells.begin()
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 6, 2, 32, generator=g) for _ in range(3))
    rays = torch.randn(1, 1, 6, 23, generator=g)

    class Window:
        def __call__(self, layer, q, k, v):
            return torch.zeros_like(q)

        cross = __call__

    read, clean = cells.seam(Window(), rays, False), cells.seam(Window(), rays, True)
    assert not read(1, q, k, v).any() and not clean(1, q, k, v).any(), "the first chunk finds an empty state, its clean pass too"
    first = cells.state()["1"]
    found = read(1, q, k, v)
    assert found.any() and torch.equal(found, cells.mix(1, torch.zeros_like(q), cells.read(1, first, rays[0]), q))
    assert torch.equal(cells.state()["1"], first), "a denoising pass wrote"
    assert torch.equal(clean(1, q, k, v), found) and not torch.equal(cells.state()["1"], first)
    assert not clean(0, q, k, v).any(), "a layer without a state"


def test_the_delta_rule_is_that_of_its_formula():
    """One triangular system against one token after the other, in float64."""
    cell = with_arm("recurrent").memory.cells["1"]
    g = torch.Generator().manual_seed(0)
    state, rays = torch.randn(2, 2, 32, 512, generator=g), torch.randn(2, 9, 23, generator=g)
    k, v = torch.randn(2, 9, 2, 32, generator=g), torch.randn(2, 9, 2, 32, generator=g)
    expected = torch.empty(2, 2, 32, 512, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            decay = torch.sigmoid(k[b, :, h].mean(0).double() @ cell.decay[h].double() + cell.decay_bias[h].double())
            s = decay * state[b, h].double()
            for i in range(9):
                phase = cell.waves[h].double() @ torch.cat([rays[b, i, :3], rays[b, i, 6:9]]).double()
                key = torch.cat([phase.cos(), phase.sin()]) / 256**0.5
                strength = torch.sigmoid(k[b, i, h].double() @ cell.strength[h].double() + cell.strength_bias[h].double())
                s = s + strength * torch.outer(v[b, i, h].double() - s @ key, key)
            expected[b, h] = s
    torch.testing.assert_close(cell.write(state, rays, k, v).double(), expected, atol=1e-5, rtol=1e-5)


def test_what_is_recalled_is_mixed_in_by_how_a_token_asks():
    """Term by term, in float64; where nothing was written attention is what it was, to the bit."""
    cell = with_arm("recurrent").memory.cells["1"]
    g = torch.Generator().manual_seed(0)
    o, m, q = (torch.randn(2, 5, 2, 32, generator=g) for _ in range(3))
    m[0, 3] = 0
    with torch.no_grad():
        cell.found.copy_(torch.tensor([0.3, -0.2]))
        mixed = cell.mix(o, m, q)
    assert torch.equal(mixed[0, 3], o[0, 3])
    for b, i, h in ((0, 0, 0), (1, 4, 1), (0, 2, 1)):
        asks = (q[b, i, h] / q[b, i, h].norm()).double() @ cell.asked[h].double()
        share = torch.sigmoid(10 * (asks + cell.taken[h].double() + cell.found[h].double() * m[b, i, h].double().norm() / 32**0.5))
        torch.testing.assert_close(mixed[b, i, h].double(), (1 - share) * o[b, i, h].double() + share * m[b, i, h].double(), atol=1e-5, rtol=1e-5)


def test_the_warp_of_true_depth_shows_what_the_ray_caster_shows():
    """Points of one view, by its true depth, fall where another view's own rays find them: to a hundredth of a pixel, where they are not hidden.
    The picture of them is the true one but for the rounding to whole pixels."""
    size, worst, unwarped, warped, shares = (64, 64), [], [], [], []
    for seed in range(3):
        shot = make_shot(seed, 4, 4, Scenery(64, 80.0, 0.12, seed % 2))
        c2w, intrinsics = shot.c2w, shot.intrinsics
        path = CoVisibility(shot.scene, c2w, intrinsics, size)
        depth = path.depth([0, 3], size)
        assert torch.equal(depth, depths(shot.scene, c2w[[0, 3]], intrinsics[[0, 3]], size))
        points = points_of(depth, c2w[[0, 3]], intrinsics[[0, 3]]).flatten(0, 1)
        column, row, z = project(points, c2w[4:5], intrinsics[4:5])
        seen = path.seen(points[None], torch.tensor([4]))[0]
        x, y = (column[0] - intrinsics[4, 2]) / intrinsics[4, 0], (row[0] - intrinsics[4, 3]) / intrinsics[4, 1]
        ray = torch.stack([x, y, torch.ones_like(x)], -1) @ c2w[4, :3, :3].T
        there = c2w[4, :3, 3] + cast(shot.scene, c2w[4:5, :3, 3], ray[None][:, seen]).depth[0][:, None] * ray[seen]
        worst.append((((there - points[seen]).norm(dim=1) / z[0, seen]) * intrinsics[4, 0]).quantile(0.99))
        true = render(shot.scene, c2w[[0, 3, 4]], intrinsics[[0, 3, 4]], size)
        picture, covered = splat(points, true[:2].permute(0, 2, 3, 1).reshape(-1, 3), c2w[4:5], intrinsics[4:5], size)
        warped.append((picture - true[2:])[covered[:, None].expand_as(picture)].square().mean())
        unwarped.append((true[1] - true[2]).square().mean())
        shares.append(covered.float().mean())
        assert (picture.permute(0, 2, 3, 1)[~covered] == 0.5).all()
    assert max(worst) < 0.01
    assert min(shares) > 0.5
    assert all(a < 0.25 * b for a, b in zip(warped, unwarped, strict=True))


def test_what_is_nearer_hides_what_is_behind():
    points = torch.tensor([[0.0, 0, 2], [0, 0, 1], [0, 0, -1], [0.5, 0, 1]])
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    image, covered = splat(points, colours, torch.eye(4)[None], torch.tensor([[4.0, 4, 4, 4]]), (8, 8))
    assert covered.sum() == 2 and image[0, :, 4, 4].tolist() == [0, 1, 0] and image[0, :, 4, 6].tolist() == [1, 1, 1]


def test_the_depth_head_learns(base):
    """On a few views, overfitted: from what a head says before it has learned to a fraction of that error."""
    config, tensors = load_weights(base)
    codec = ConvCodec(**config["codec"])
    codec.load_state_dict({k.removeprefix("codec."): x for k, x in tensors.items() if k.startswith("codec.")})
    torch.manual_seed(0)
    seen = collate([DepthClips(range(4, 5), 1, [Phase(2, 3, 1, 1)], SCENERY)[0, 0]])
    assert seen.depth.shape == (1, 6, 8, 8) and (seen.depth > 0).all()
    module = DepthTraining(DepthHead(4, 16), codec, 200, 3e-3)
    optimizer = torch.optim.AdamW(module.head.parameters(), lr=3e-3)
    errors = []
    for step in range(200):
        errors.append(module.error(seen, 0.0, torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        errors[-1].backward()
        optimizer.step()
    assert errors[-1] < 0.4 * errors[0]


def test_true_depth_is_asked_of_the_world(trajectory):
    """`oracle_geometry` keeps what the ray-caster says, and a world without geometry is refused by name."""
    backbone, policy = with_arm("oracle_geometry"), make_policy("oracle_geometry")
    forced = backbone.encode(trajectory.images)
    rollout(backbone, policy, GpuStore(), trajectory, 0, forced[:3], snapshot=Snapshot(chunks=2))
    kept = backbone.memory.state()["depth"]
    assert torch.equal(kept, trajectory.overlap.depth(range(6), (16, 24)).half())
    path = replace(trajectory, overlap=None)
    with pytest.raises(ValueError, match="does not know the true depth .*use policy=trained_geometry"):
        rollout(backbone, policy, GpuStore(), path, 0, forced[:3])
