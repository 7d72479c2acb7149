"""Recall probes: the rollout does not notice them, policies are not told, and they measure what was seen long ago."""

import time

import pytest
import torch

from backbones.rooms import TinyRoomsBackbone
from harness.cache.disk import DiskStore
from harness.cache.stores import GpuStore
from harness.evaluation.probes import Probe, Prober, Probes, cannot, schedule, seen
from harness.policy import PolicyWrapper
from harness.rollout import rollout
from harness.worlds.chunks import chunk_count
from metrics.frame import PSNR
from metrics.recall import mean_recall, score_probes
from tests.conftest import CONF, make_policy, make_world

COST = ("attended_rows", "window_bytes", "bank_bytes_gpu", "bytes_moved", "rows_rotated", "retrieved", "attended", "unreachable", "stored", "taken")


@pytest.fixture(scope="module")
def path():
    """18 chunks: the camera turns away and stays away, so that early views are out of sight for long."""
    return make_world(["R180R90L60R60L60R60L90"], degrees=10.0, hold_frames=3, fov=50.0).trajectory(0)


def roll(backbone, policy, path, probes=(), store=None):
    prober = Prober(probes)
    forced = backbone.encode(path.images)[:3]
    return rollout(backbone, policy, store or GpuStore(), path, 0, forced, before=prober.before), prober.views


@pytest.mark.parametrize("name", ["full", "worldkv", "worldkv_rebased", "sliding", "h2o", "tempcache", "places", "oracle", "reencode"])
def test_the_rollout_does_not_notice(name, backbone, path):
    probes = schedule(path, backbone.geometry, Probes(6, (2, 4)))
    assert len(probes) >= 4
    plain, _ = roll(backbone, make_policy(name), path)
    probed, views = roll(backbone, make_policy(name), path, probes)
    assert len(views) == len(probes)
    assert torch.equal(plain.latents, probed.latents) and torch.equal(plain.frames, probed.frames) and plain.noise == probed.noise
    assert [[getattr(s, c) for c in COST] for s in plain.stats] == [[getattr(s, c) for c in COST] for s in probed.stats]


@pytest.mark.parametrize("name", ["full", "worldkv", "query"])
def test_given_chunks_are_probed_too(name, backbone, path):
    """What a fork of a given chunk shows is generated: it depends on the noise, and the rollout takes what was given."""
    forced = backbone.encode(path.images)
    given = len(forced) // 3
    probes = [p for p in schedule(path, backbone.geometry, Probes(8, (2, 4))) if p.chunk < given]
    assert len(probes) >= 2

    def shown(seed):
        prober = Prober(probes)
        made = rollout(backbone, make_policy(name), GpuStore(), path, seed, forced, before=prober.before)
        return made, torch.stack([v.shown for v in prober.views])

    plain = rollout(backbone, make_policy(name), GpuStore(), path, 0, forced)
    (made, views), (_, others) = shown(0), shown(1)
    assert len(views) == len(probes) and not torch.equal(views, others)
    assert torch.equal(made.latents, plain.latents) and torch.equal(made.latents[: 3 * given], forced[: 3 * given]) and made.noise == plain.noise


def test_a_slow_probe_costs_no_chunk_its_time(backbone, path, monkeypatch):
    """FPS is that of the rollout: what a fork takes lies between two chunks."""
    wait, inner = 0.3, Prober._look

    def slow(self, *args, **kwargs):
        time.sleep(wait)
        return inner(self, *args, **kwargs)

    monkeypatch.setattr(Prober, "_look", slow)
    probes = schedule(path, backbone.geometry, Probes(4, (2, 4)))
    made, views = roll(backbone, make_policy("worldkv"), path, probes)
    assert len(views) == len(probes) == 4
    assert max(made.stats[p.chunk].seconds for p in probes) < wait


def test_files_of_probes_go(backbone, path, tmp_path):
    probes = schedule(path, backbone.geometry, Probes(4, (2, 4)))
    store = DiskStore(folder=str(tmp_path))
    roll(backbone, make_policy("worldkv"), path, probes, store)
    assert len(list(tmp_path.iterdir())) == 1, "the rollout's own folder alone"
    store.close()


def test_a_schedule_keeps_to_its_gaps(backbone, path):
    g, total = backbone.geometry, chunk_count(path, backbone.geometry)
    probes = schedule(path, g, Probes(8, (2, 4)))
    shown = seen(path, g, total)
    assert len({p.chunk for p in probes}) == len(probes) <= 8 and {p.gap >= 4 for p in probes} == {True, False}
    for p in probes:
        assert p.chunk >= 2 and p.gap >= 2
        last = max(c for c in range(p.chunk) if shown[p.target, c])
        assert p.chunk - last == p.gap
        assert not shown[p.target, : p.target].any(), "the first visit, not a later one"
        assert not shown[p.target, last + 1 : p.chunk].any()
        assert path.overlap([3 * p.target + 1], [1]).item() < 0.25, "the sink shows nothing of it"
    assert schedule(path, g, Probes(8, (2, 4))) == probes
    assert schedule(path, g, Probes(0)) == []


class Told(PolicyWrapper):
    """Checks what a policy is told: of the future the poses of the path, at every chunk, and in a fork nothing beyond the probe."""

    def __init__(self, inner, c2w):
        self.inner, self.c2w = inner, c2w[: len(c2w) // 3 * 3]

    def plan(self, chunk, bank):
        assert set(vars(chunk)) == {"index", "start", "c2w", "intrinsics", "actions", "covisible", "visible", "probing", "ahead", "trial"}
        assert chunk.trial is None, "of a policy that does not say `tries`"
        on_path, longer = torch.equal(chunk.c2w, self.c2w[chunk.start : chunk.start + 3]), chunk.ahead(99)
        assert torch.equal(longer.c2w, self.c2w[chunk.start :] if on_path else chunk.c2w)
        assert on_path or chunk.index == 10, "only the fork leaves the path"
        assert (longer.covisible, longer.visible, longer.ahead) == (None, None, None)
        return super().plan(chunk, bank)


def test_a_probe_shows_the_earlier_view(backbone, path):
    """What the fork is asked for is the earlier pose, as the next chunk; the scores are those of its frames."""
    probe = Probe(10, 3, 7)
    out, (view,) = roll(backbone, Told(make_policy("oracle"), path.c2w), path, [probe])
    assert view.frames == (9, 10, 11) and {9, 10, 11} <= set(view.retrieved), "true co-visibility finds the view itself"
    (row,) = score_probes([view], out, path, [PSNR()])
    error = (out.frames[9:12] - view.shown).square().mean((1, 2, 3))
    assert row["psnr"] == pytest.approx((-10 * error.log10()).mean().item(), abs=1e-4)
    true = (path.reference[9:12] - view.shown).square().mean((1, 2, 3))
    assert row["psnr_true"] == pytest.approx((-10 * true.log10()).mean().item(), abs=1e-4)
    assert mean_recall([row, row | {"psnr": row["psnr"] + 2}])["recall/psnr"] == pytest.approx(row["psnr"] + 1)
    assert score_probes([], out, path, [PSNR()]) == [] and mean_recall([]) == {}


def test_who_cannot_be_probed_says_why(backbone):
    class Moves(TinyRoomsBackbone):
        jumps = False

    assert cannot(backbone, Probes(4), None) == ""
    assert "steered by moves" in cannot(Moves(), Probes(4), None)
    assert "probes.metres=0" in cannot(backbone, Probes(4, metres=1.0), None)


@pytest.fixture(scope="module")
def ground():
    return make_world(["R180R90L60R60L60R60L90"], degrees=10.0, hold_frames=3, fov=50.0).ground(0)


BESIDE = Probes(8, (2, 4), metres=1.0, degrees=40.0)


def test_a_probe_from_beside_shares_a_view_that_is_old(backbone, path, ground):
    """It stands on free floor, half to all of the way off, sees half of what the target sees, and has not seen it for the gap."""
    g = backbone.geometry
    probes = schedule(path, g, BESIDE, ground)
    assert len(probes) >= 3 and schedule(path, g, BESIDE, ground) == probes, "the same for every policy"
    middles = [3 * i + 1 for i in range(18)]
    for p in probes:
        assert p.aside is not None
        target = path.c2w[3 * p.target : 3 * p.target + 3]
        far = (p.aside.c2w[:, :3, 3] - target[:, :3, 3]).norm(dim=1)
        assert torch.allclose(far, torch.full((3,), p.aside.metres), atol=1e-4) and 0.5 <= p.aside.metres <= 1.0
        turn = (target[:, :3, :3].transpose(1, 2) @ p.aside.c2w[:, :3, :3]).diagonal(dim1=1, dim2=2).sum(1)
        assert torch.allclose(torch.rad2deg(((turn - 1) / 2).clamp(-1, 1).acos()), torch.tensor(p.aside.degrees), atol=0.1) and 20 <= p.aside.degrees <= 40
        assert ground.free(p.aside.c2w[:, [0, 2], 3]).all()
        shares = path.overlap.led_on(3 * p.chunk, p.aside.c2w, path.intrinsics[:3])([3 * p.chunk + 1], middles[: p.chunk])[0]
        assert shares[p.target] >= 0.5 and not (shares[p.chunk - p.gap + 1 :] >= 0.5).any() and p.gap >= 2


@pytest.mark.parametrize("name", ["full", "worldkv", "oracle", "query", "reencode"])
def test_the_rollout_does_not_notice_probes_from_beside(name, backbone, path, ground):
    probes = schedule(path, backbone.geometry, BESIDE, ground)
    plain, _ = roll(backbone, make_policy(name), path)
    prober = Prober(probes, ground)
    probed = rollout(backbone, make_policy(name), GpuStore(), path, 0, backbone.encode(path.images)[:3], before=prober.before)
    assert len(prober.views) == len(probes)
    assert torch.equal(plain.latents, probed.latents) and plain.noise == probed.noise
    rows = score_probes(prober.views, probed, path, [PSNR()])
    for row, view, probe in zip(rows, prober.views, probes, strict=True):
        assert "psnr" not in row and row["aside_metres"] == pytest.approx(probe.aside.metres, abs=1e-3)
        true = ground.view(probe.aside.c2w, path.intrinsics[:3], (16, 24))
        assert torch.equal(view.truth, true)
        error = (view.shown - true).square().mean((1, 2, 3))
        assert row["psnr_true"] == pytest.approx((-10 * error.log10()).mean().item(), abs=1e-4)
    assert mean_recall(rows).keys() == {"recall/psnr_true", "recall/probes"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((8, ()), "probes.gaps"),
        ((8, (0, 4)), "1 or more"),
        ((8, (8, 4)), "rising"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Probes(*settings)


def test_the_main_job_probes(tmp_path, monkeypatch):
    """Recall in results.json and probes.csv; the other columns are those of a run without probes; another setting is another run."""
    from harness.evaluation.evaluate import evaluate
    from harness.settings.command_line import composed

    monkeypatch.chdir(tmp_path)
    tiny = ["policy=worldkv", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "progress=false", "logger=none", "videos=0", "world.trajectories=2"]

    def job(*overrides):
        cfg, choices = composed(CONF, [*tiny, "world.specs=[R180R90L60R60L90]", *overrides])
        return evaluate(cfg, choices, "worldkv", compare=False)["summary"]

    plain, probed = job(), job("probes.count=4", "probes.gaps=[2,4]")
    assert {f"recall/{k}" for k in ("psnr", "ssim", "psnr_true", "ssim_true", "probes")} == probed.keys() - plain.keys()
    assert probed["recall/psnr"]["n"] == 2 and 0 < probed["recall/psnr"]["mean"] < 100
    assert {k: v for k, v in probed.items() if k.startswith("quality/")} == {k: v for k, v in plain.items() if k.startswith("quality/")}
    (table,) = tmp_path.rglob("probes.csv")
    rows = table.read_text().splitlines()
    assert rows[0].startswith("trajectory,chunk,target,gap,metres,psnr,psnr_true") and len(rows) - 1 == 2 * probed["recall/probes"]["mean"]
    assert len(list(tmp_path.rglob("results.json"))) == 2
