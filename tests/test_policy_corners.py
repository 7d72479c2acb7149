"""Policies at the ends of their settings: bounds that hold when nothing can come back, chunks of which nothing is kept, settings beyond reason."""

import pytest

from policies.bases.retrieval import RetrievalPolicy
from tests.conftest import make_policy, make_world
from tests.diary import Diary
from tests.tolerances import SECOND_ROUTE


@pytest.fixture(scope="module")
def wander():
    return make_world(["R90L90R60L60"], hold_frames=3, degrees=10.0).trajectory(0)


@pytest.mark.parametrize(
    "rest", [["policy.inner.retrieved=0"], ["policy.inner.retrieved=1", "policy.inner.unit=frames"], ["policy/selector@policy.inner.selector=given"]]
)
@pytest.mark.parametrize("bank", [["kcentre", "policy.chunks=2"], ["places", "policy.places=1", "policy.theta=2"]])
def test_a_bank_is_bounded_although_nothing_can_come_back(bank, rest, wander, roll):
    """Between sink and recent: what is held, and one chunk that is settled next."""
    diary = Diary(make_policy(*bank, *rest))
    roll(diary, path=wander)
    between = [{f // 3 for f in held if 3 <= f < 3 * (chunk - 1)} for chunk, held in enumerate(diary.held)]
    assert max(map(len, between)) <= 3 < len(between) - 3


def test_of_chunks_that_keep_no_row_nothing_is_remembered(wander, roll):
    """A compressor that keeps the anchor frame alone, in a bank of two chunks: what was dropped is unreachable, and spends no budget."""
    diary = Diary(
        make_policy(
            "kcentre",
            "policy@policy.inner=worldkv",
            "policy.chunks=2",
            "policy.inner.compressor.ratio=0",
            "policy.inner.unit=frames",
            "policy.inner.retrieved=6",
        )
    )
    stats = roll(diary, path=wander).stats[-1]
    held = {f for f in diary.held[-1] if 3 <= f < stats.start - 3}
    assert all(f % 3 == 0 for f in held) and len(held) == 3, "an anchor of each chunk that is held, and of the one that is settled next"
    assert len(stats.retrieved) == 2 and {f // 3 for f in stats.unreachable} == set(range(1, stats.chunk - 1)) - {f // 3 for f in held}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("capped", ["policy.inner.blind=6", "policy.frames=22"]),  # chunks are dropped before they are compressed
        ("kcentre", ["policy.inner.blind=6", "policy.chunks=1"]),
        ("cachecraft", ["policy.sink=9", "policy.share=1"]),  # of other chunks than the inner policy's sink
        ("merge", ["policy/compressor@policy.compressor.inner=random", "policy.compressor.inner.anchor=false", "policy.compressor.inner.ratio=0"]),
        ("cake", ["policy.split.tau_dispersion=0.05", "policy.split.tau_shift=0.05"]),
        ("snapkv", ["policy.scorer.queries=1000000000"]),
        ("worldkv", ["policy.retrieved=1e15"]),
        ("tempcache", ["policy.limit=1e15"]),
    ],
)
def test_it_runs(name, settings, wander, roll):
    assert roll(make_policy(name, *settings), path=wander).latents.isfinite().all()


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("worldkv", "policy.retrieved=1e307", r"policy.retrieved=1e\+307: use a number from 0 to 1e\+15, or inf"),
        ("cake", "policy.split.tau_dispersion=0.01", "policy.split.tau_dispersion=0.01: use a number from 0.05"),
        ("pointvotes_true", "policy.selector.voxel=1e-30", "policy.selector.voxel=1e-30: use 0 or a number from 0.001"),
        ("worldkv_clamped", "policy.placement.span=1", "placement.span=1 is shorter than a chunk of 3 frames; use 3 or more"),
    ],
)
def test_what_means_nothing_is_refused(name, setting, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy(name, setting))


def test_quest_without_a_budget_reaches_nothing(wander, roll):
    stats = roll(make_policy("quest", "policy.budget=0"), path=wander).stats[-1]
    assert set(stats.unreachable) == set(range(3, stats.start - 3)) and not stats.retrieved


def test_heads_that_were_cut_cost_the_same_wherever_chunks_are_compressed(wander, roll):
    """A budget in equivalents counts rows that are held: half of the heads, twice the chunks, at store as at retrieve."""
    settings = ["policy.share=0.5", "policy.labels=null", "policy.calibrate=1", "policy.inner.retrieved=3", "policy.inner.unit=equivalents"]
    store, retrieve = (roll(make_policy("heads", *settings, f"policy.inner.compress={when}"), path=wander).stats for when in ("store", "retrieve"))
    assert [s.retrieved for s in store] == [s.retrieved for s in retrieve] and len(store[-1].retrieved) == 9


def test_what_is_dropped_leaves_no_choice_of_rows(wander, roll):
    """compress=retrieve remembers which rows of a chunk come back, as long as the chunk is there."""
    policy = make_policy("kcentre", "policy.chunks=2", "policy.inner.compress=retrieve")
    roll(policy, path=wander)
    inner = policy.inner
    assert isinstance(inner, RetrievalPolicy) and len(inner._kept) <= 6 and len(inner._into) <= 6


def test_a_selector_starts_anew(wander, roll):
    policy = make_policy("query")
    first, again = (roll(policy, path=wander).stats for _ in range(2))
    assert [s.scratch_bytes for s in first] == [s.scratch_bytes for s in again]


@pytest.mark.parametrize("name", ["reencode", "cachecraft", "retrieval_rebased"])
def test_selectors_see_keys_at_their_own_positions(name, wander, roll, backbone):
    """Whatever numbers a plan gives to positions: `KV.k` is the rotation of `k_raw` by the chunk's own."""
    policy, far = make_policy(name), []
    keep = policy.commit

    def commit(chunk, kv, bank):
        own = backbone.rope(kv.positions)(kv.k_raw)
        far.append(float((kv.k - own).abs().max()))
        keep(chunk, kv, bank)

    policy.commit = commit  # type: ignore[method-assign]
    roll(policy, path=wander)
    assert max(far) < SECOND_ROUTE * 10, far


@pytest.mark.parametrize("selector", ["query", "attention"])
def test_queries_are_rotated_as_the_keys_are(selector, wander, roll):
    """Under positions that are numbered anew: the order is that of logits of absolute placement, as in a policy that moves nothing but what comes back."""
    plain = roll(make_policy("retrieval_rebased", f"policy/selector={selector}", "policy.retrieved=inf"), path=wander)
    anew = roll(make_policy("reencode", f"policy/selector@policy.inner.selector={selector}", "policy.inner.retrieved=inf"), path=wander)
    assert (plain.latents - anew.latents).abs().max() < 0.5 * plain.latents.abs().max()
    assert [s.retrieved for s in plain.stats] == [s.retrieved for s in anew.stats]
