"""The substitution audit: the rollout does not notice it, pages are replaced by what they are said to be, and gains are paired."""

from dataclasses import replace

import pytest
import torch

from harness.cache.stores import GpuStore
from harness.datatypes import Plan
from harness.evaluation.audit import Auditor, DoesNotApply, Others, SubstitutedPolicy, brought_back, other_memory
from harness.evaluation.probes import Prober, Probes, schedule
from harness.rollout import rollout
from harness.session import Session
from harness.worlds.chunks import chunk_at
from metrics.column import ARMS, recalled
from metrics.frame import PSNR
from metrics.recall import mean_audit, score_probes
from tests.conftest import make_policy, make_world, with_arm

COST = ("attended_rows", "window_bytes", "bank_bytes_gpu", "bytes_moved", "rows_rotated", "retrieved", "attended", "unreachable", "stored", "taken")
PROBES = Probes(4, (2, 4))
WALK = "R180R90L60R60L60R60L90"


@pytest.fixture(scope="module")
def world():
    return make_world([WALK], trajectories=2, degrees=10.0, hold_frames=3, fov=50.0)


@pytest.fixture(scope="module")
def path(world):
    return world.trajectory(0)


def others(backbone, policy, world, chunks=12):
    path = world.trajectory(1)
    return other_memory(backbone, policy, GpuStore().codec, path, 0, backbone.encode(path.reference), chunks)


def session_at(backbone, policy, path, chunks, given=3):
    session = Session.begin(backbone, policy, GpuStore(), path, 0, backbone.encode(path.reference)[:given])
    for _ in range(chunks):
        session.step()
    return session


@pytest.mark.parametrize("name", ["full", "worldkv", "worldkv_rebased", "h2o", "query", "quest", "reencode", "heads"])
def test_the_rollout_does_not_notice(name, backbone, world, path):
    policy, forced = make_policy(name), backbone.encode(path.images)[:3]
    plain = rollout(backbone, policy, GpuStore(), path, 0, forced)
    prober = Prober(schedule(path, backbone.geometry, PROBES), None, Auditor(tuple(ARMS), others(backbone, policy, world)))
    probed = rollout(backbone, policy, GpuStore(), path, 0, forced, before=prober.before)
    assert torch.equal(plain.latents, probed.latents) and torch.equal(plain.frames, probed.frames) and plain.noise == probed.noise
    assert [[getattr(s, c) for c in COST] for s in plain.stats] == [[getattr(s, c) for c in COST] for s in probed.stats]
    bare = Prober(schedule(path, backbone.geometry, PROBES))
    rollout(backbone, policy, GpuStore(), path, 0, forced, before=bare.before)
    assert all(torch.equal(a.shown, b.shown) for a, b in zip(bare.views, prober.views, strict=True)), "nor do the probes themselves"
    for view in prober.views:
        assert view.audit.keys() | view.unaudited.keys() == set(ARMS) and not view.audit.keys() & view.unaudited.keys()
        assert all(not torch.equal(shown, view.shown) for shown in view.audit.values()), "replacing pages changes what is shown"
    applied = set().union(*(v.audit for v in prober.views))
    expected = {
        "full": {"other", "mean", "none"},  # all that is banked is attended to
        "h2o": {"other", "mean", "none"},  # one page of many frames
        "quest": {"none"},
        "reencode": {"wrong", "none"},
    }.get(name, set(ARMS))
    assert applied == expected, (applied, {a: w for v in prober.views for a, w in v.unaudited.items()})


@pytest.fixture
def forked(backbone, path):
    """A fork of a rollout under worldkv before its 18th chunk, about to look at chunk 3 again, and what it then plans and shows."""

    def make(substitute, name="worldkv"):
        fork = session_at(backbone, make_policy(name), path, 18).fork()
        seen = {}

        def keep(plan, chunk, bank):
            seen["right"], seen["plan"] = plan, substitute(plan, chunk, bank)
            seen["pages"] = {f: bank.page(f) for f in seen["plan"].frames}
            seen["overlap"] = chunk.overlap
            return seen["plan"]

        fork.policy = SubstitutedPolicy(fork.policy, keep)
        seen["shown"], seen["stats"] = fork.revisit(range(9, 12))
        return seen

    return make


def arm(name, path, kept=Others()):
    return dict(Auditor((name,), kept, "nothing").substitutes(path))[name]


def test_none_is_the_window_without_them(forked, path, backbone):
    found = forked(arm("none", path))
    assert found["stats"].attended == (0, 1, 2, 51, 52, 53) and found["right"].retrieved
    bare = session_at(backbone, make_policy("worldkv"), path, 18).fork()
    bare.policy = SubstitutedPolicy(bare.policy, lambda plan, chunk, bank: Plan.of_frames((0, 1, 2, 51, 52, 53)))
    assert torch.equal(found["shown"], bare.revisit(range(9, 12))[0])


def test_wrong_ones_are_others_of_the_walk_that_show_something_else(forked, path):
    for name in ("worldkv", "worldkv_rebased", "retrieval_only"):
        found = forked(arm("wrong", path), name)
        right, wrong = found["right"], found["plan"]
        assert len(wrong.retrieved) == len(right.retrieved) and not set(wrong.retrieved) & set(right.frames)
        assert float(found["overlap"][:, list(wrong.retrieved)].max()) < 0.1 < float(found["overlap"][:, list(right.retrieved)].max())
        assert [f for f in wrong.frames if f not in wrong.retrieved] == [f for f in right.frames if f not in right.retrieved]
        assert found["stats"].attended == wrong.frames
        if right.times is not None and len(wrong.frames) == len(right.frames):
            assert wrong.times == right.times, "they lie where the right ones lay"


def test_pages_of_another_house_are_those_of_its_own_rollout(forked, path, backbone, world):
    for name in ("worldkv", "worldkv_rebased"):
        kept = others(backbone, make_policy(name), world, 18)
        found = forked(arm("other", path, kept), name)
        assert found["plan"] == found["right"]
        theirs = session_at(backbone, make_policy(name), world.trajectory(1), 18, given=54)
        by_frame = dict(kept.pages)
        assert all(torch.equal(page.k, theirs.cache.bank.page(f).k) and torch.equal(page.v, theirs.cache.bank.page(f).v) for f, page in by_frame.items())
        for frame in found["right"].retrieved:
            page = found["pages"][frame]
            source = next(f for f, p in by_frame.items() if p.rows == page.rows and torch.equal(p.v, page.v))
            assert torch.equal(page.k, by_frame[source].k)
            if name == "worldkv_rebased":
                assert torch.equal(page.positions[..., 0] - frame, by_frame[source].positions[..., 0] - source), "raw keys: at the right place in time"


def test_the_mean_is_of_all_rows_brought_back(forked, path, backbone):
    found = forked(arm("mean", path))
    plain = forked(lambda plan, chunk, bank: plan)
    rows = torch.cat([plain["pages"][f].v for f in plain["right"].retrieved], 2).mean(2)
    for frame in found["right"].retrieved:
        page = found["pages"][frame]
        assert page.rows == plain["pages"][frame].rows and torch.equal(page.positions, plain["pages"][frame].positions)
        assert torch.allclose(page.v, rows[:, :, None].expand_as(page.v), atol=1e-6)
    assert all(torch.equal(found["pages"][f].v, plain["pages"][f].v) for f in (0, 1, 2)), "sink and recent frames stay"


def test_who_has_nothing_to_replace_says_so(path, backbone):
    plan = Plan.of_frames((0, 1, 2, 6, 7, 8))
    assert brought_back(plan, 9, 3) == () and brought_back(Plan.of_frames(range(12)), 12, 3) == tuple(range(3, 9))
    assert brought_back(replace(plan, retrieved=(6, 7, 8)), 12, 3) == (6, 7, 8)
    chunk = chunk_at(path, backbone.geometry, 3)
    for name, substitute in Auditor(tuple(ARMS), Others(), "nobody").substitutes(path):
        with pytest.raises(DoesNotApply, match="nobody" if name == "other" else "no pages but those"):
            substitute(plan, chunk, session_at(backbone, make_policy("sliding"), path, 1).cache.bank)


@pytest.mark.parametrize("name", ["trained_recurrent", "trained_geometry"])
def test_of_a_backbone_that_remembers_the_state_is_replaced(name, world, path):
    """By that of one that has seen nothing, or that of another trajectory; the rollout does not notice, and the window stays."""
    backbone, policy = with_arm(name.removeprefix("trained_")), make_policy(name)
    forced = backbone.encode(path.images)[:3]
    kept = others(backbone, policy, world)
    backbone.begin(path)
    blank = backbone.state()
    plain = rollout(backbone, policy, GpuStore(), path, 0, forced)
    auditor = Auditor(tuple(ARMS), kept, "", blank)
    prober = Prober(schedule(path, backbone.geometry, PROBES), None, auditor)
    assert torch.equal(plain.latents, rollout(backbone, policy, GpuStore(), path, 0, forced, before=prober.before).latents)
    for view in prober.views:
        assert set(view.audit) == {"other", "none"} and set(view.unaudited) == {"wrong", "mean"}
        assert not torch.equal(view.audit["none"], view.shown) and not torch.equal(view.audit["other"], view.audit["none"])
    session = session_at(backbone, policy, path, 12)
    assert same_state(session.fork(blank).turn.state, blank) and not same_state(session.fork().turn.state, blank)
    assert not same_state(kept.state, blank)


def same_state(a: dict, b: dict) -> bool:
    a, b = a.get("memory", {}), b.get("memory", {})
    return a.keys() == b.keys() and all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


def test_gains_are_paired_by_probe(backbone, path):
    prober = Prober(schedule(path, backbone.geometry, PROBES), None, Auditor(("none",)))
    out = rollout(backbone, make_policy("worldkv"), GpuStore(), path, 0, backbone.encode(path.images)[:3], before=prober.before)
    rows = score_probes(prober.views, out, path, [PSNR()])
    for row, view in zip(rows, prober.views, strict=True):
        if "none" in view.audit:
            at = list(view.frames)
            assert row["psnr_none"] == pytest.approx(PSNR().score(out.frames[at], view.audit["none"]).mean().item(), abs=1e-4)
            assert row["psnr_true_none"] == pytest.approx(PSNR().score(path.reference[at], view.audit["none"]).mean().item(), abs=1e-4)
    assert recalled(rows) == ["psnr", "psnr_true"]
    made = [{"psnr": 20.0, "psnr_wrong": 18.0}, {"psnr": 22.0, "psnr_wrong": 19.0}, {"psnr": 10.0}]
    assert mean_audit(made) == {"audit/psnr_wrong": 2.5} and mean_audit([]) == {}
