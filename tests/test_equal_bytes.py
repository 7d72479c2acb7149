"""Equal bytes: `capped` bounds window, bank, state and scratch together at the end of every chunk, against bytes counted here tensor by tensor."""

import re

import pytest
import torch

from harness.cache.disk import DiskStore
from harness.cache.stores import GpuStore
from harness.policy import PolicyWrapper
from harness.rollout import Snapshot, rollout
from harness.session import Session
from metrics.cost import cost, held
from policies.wrappers.capped import CappedPolicy
from tests.conftest import ROOT, make_policy, make_world, with_arm

INNER = re.findall(r"\w+", re.search(r"policy\.inner=(\S+)", (ROOT / "conf" / "experiment" / "bench_bytes.yaml").read_text())[1])  # those of the bench
INNER.remove("reencode")  # whose clean passes of older chunks `Weighed` does not tell from the chunk's own; see test_latents_count
LOOSE = {"int4_places_coverage", "places", "places_newest", "sink_recent", "pooled", "h2o", "int4_chunks"}  # what stays below the limits anyway


class Weighed(PolicyWrapper):
    """Bytes of the rows attended to in each clean pass, and of all tensors of the bank's pages after each chunk."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.window, self.bank = [], []

    def attend(self, q, k, v, site):
        if site.clean:
            self.window[site.chunk :] = [0 if site.layer == 0 else self.window[site.chunk]]
            self.window[site.chunk] += k.nbytes + v.nbytes
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        super().commit(chunk, kv, bank)
        pages = [packed for _, packed in bank.stored()]
        marks = [x for p in pages for x in (p.mass, p.present, p.positions if p.positions.dim() == 4 else None) if x is not None]
        self.bank.append(sum(x.nbytes for p in pages for x in (*p.k, *p.v)) + sum(x.nbytes for x in marks))


@pytest.fixture(scope="module")
def path():
    """25 chunks in one room: without a limit `retrieval_only` comes to store 85 frames."""
    return make_world(["R90L90R90L90R90L90R90L90"], degrees=10.0).trajectory(0)


@pytest.mark.parametrize("frames", [33, 45])
@pytest.mark.parametrize("name", INNER)
def test_no_chunk_stores_more_than_the_limit(name, frames, roll, path, backbone):
    limit = frames * backbone.geometry.frame_bytes
    policy = Weighed(CappedPolicy(make_policy(name), frames))
    stats = roll(policy, path=path).stats
    total = [held(s)["stored_bytes"] for s in stats]
    counted = [w + b + s.scratch_bytes + s.state_bytes for w, b, s in zip(policy.window, policy.bank, stats, strict=True)]
    assert total == counted
    assert max(total) <= limit
    free = roll(make_policy(name), path=path).stats
    if name in LOOSE:
        assert [s.unreachable_frames for s in stats] == [s.unreachable_frames for s in free], "nothing is forgotten that fits"
    elif max(held(s)["stored_bytes"] for s in free) > limit:
        assert sum(s.unreachable_frames for s in stats) > sum(s.unreachable_frames for s in free)
        whole_chunk = 2 * 3 * backbone.geometry.frame_bytes  # a chunk goes from the bank, and as much more in its scratch
        assert max(total) > limit - whole_chunk, "no more is forgotten than has to be"


def test_state_counts(trajectory):
    """What a trained memory keeps beside K/V leaves less for the bank: a limit that nothing breaks before chunk 9, and one less a sixteenth of the state."""
    backbone = with_arm("recurrent")
    given = backbone.encode(trajectory.images)[:3]

    def roll(policy):
        return rollout(backbone, policy, GpuStore(), trajectory, 0, given).stats

    free = roll(make_policy("worldkv"))
    limit, state = max(held(s)["stored_bytes"] for s in free[:9]), free[-1].state_bytes
    assert state > 0
    for less, forgotten in ((0, False), (state // 16, True)):
        stats = roll(CappedPolicy(make_policy("worldkv"), (limit - less) / backbone.geometry.frame_bytes))
        assert (stats[9].unreachable_frames > 0) == forgotten
        assert stats[10].unreachable_frames > 0 and max(held(s)["stored_bytes"] for s in stats) <= limit - less


def test_latents_count(roll, backbone):
    """A bank of latents is stored too; without a limit it grows, under one it does not."""
    limit = max(held(s)["stored_bytes"] for s in roll(make_policy("reencode")).stats[:9])
    stats = roll(CappedPolicy(make_policy("reencode"), limit / backbone.geometry.frame_bytes)).stats
    assert max(held(s)["stored_bytes"] for s in stats) <= limit and stats[10].unreachable_frames > 0 == stats[9].unreachable_frames


def test_a_limit_that_the_window_breaks_is_refused_with_one_that_holds(roll):
    with pytest.raises(ValueError, match="give frames=") as error:
        roll(make_policy("capped", "policy.frames=19"))
    assert "scratch" in str(error.value)
    found = re.search(r"give frames=(\d+)", str(error.value))
    assert found and int(found[1]) > 19
    assert torch.equal(roll(make_policy("capped", "policy.frames=inf")).latents, roll(make_policy("worldkv")).latents)


def test_a_store_elsewhere_forgets_the_same(backbone, path, tmp_path):
    """What is forgotten depends on bytes, not on where they lie or what was fetched ahead."""
    outs = [rollout(backbone, make_policy("capped"), store, path, 0, snapshot=Snapshot(chunks=16)) for store in (GpuStore(), DiskStore(folder=str(tmp_path)))]
    assert torch.equal(outs[0].latents, outs[1].latents)
    assert [s.unreachable for s in outs[0].stats] == [s.unreachable for s in outs[1].stats]


def test_the_column_is_the_largest_sum(roll, path, backbone):
    """Not the sum of what was largest at different times: a run under a limit never shows more than it."""
    out = roll(CappedPolicy(make_policy("h2o"), 33), path=path)
    assert cost(out)["cost/stored_bytes"] == max(held(s)["stored_bytes"] for s in out.stats if not s.forced) <= 33 * backbone.geometry.frame_bytes


RATIO = re.compile(r"(half|third|quarter|ninth|tenth|\d+ ?%|\d+ times)[^.|]*\b(bytes|of the bank)\b", re.IGNORECASE)


def test_claims_of_a_ratio_of_bytes_name_dtype_and_window():
    """A ninth of the bytes was a bank in 4 bits against one in float32, without the window that both have."""
    folders = [(ROOT, "README.md"), (ROOT / "docs", "*.md"), (ROOT / "docs" / "results", "*.md"), (ROOT / "conf" / "policy", "*.yaml")]
    parts = [part for folder, names in folders for p in sorted(folder.glob(names)) for part in re.split(r"\n\s*[-#|\d]|\n\n", p.read_text())]
    claims = [part for part in parts if RATIO.search(part)]
    assert len(claims) > 3
    assert not [claim for claim in claims if not ("window" in claim and "bf16" in claim)]


def test_a_plan_that_is_thrown_away_protects_nothing(backbone, path):
    """Recall probes fork a session that has planned ahead, and plan anew for another view: only the plan that is kept counts as use."""
    kept = []
    for forks in (False, True):
        policy = CappedPolicy(make_policy("worldkv"), 33)
        session = Session.begin(backbone, policy, GpuStore(), path, 0, backbone.encode(path.images)[:3])
        for chunk in range(session.known):
            session.step()
            if forks and chunk > 10:
                session.fork().revisit(range(3))
        kept.append((session.latents.made, [(s.retrieved, s.stored) for s in session.stats]))
    assert torch.equal(kept[0][0], kept[1][0]) and kept[0][1] == kept[1][1], "a session with forks is one without"


def test_pages_that_a_pool_is_taken_from_are_in_use(roll, path):
    """Quest's plan names one page and takes its rows from many; and what is forgotten leaves its scratch."""
    policy = CappedPolicy(make_policy("quest"), 45)
    roll(policy, path=path)
    assert len(policy.inner.scorer._extremes) < 60
