"""Which policies may be wrapped in which: what would go wrong in the middle of a rollout is refused at its start."""

import pytest

from harness.datatypes import Geometry
from policies.parts.evict.base import Oldest
from policies.parts.likeness import ViewLikeness
from policies.parts.place.base import Rebased
from policies.parts.place.slot import Slot
from policies.wrappers.annsa import AnnSaPolicy
from policies.wrappers.bounded import BoundedPolicy
from policies.wrappers.cachecraft import CacheCraftPolicy
from policies.wrappers.capped import CappedPolicy
from policies.wrappers.heads import HeadsPolicy
from policies.wrappers.placed import PlacedPolicy
from policies.wrappers.places import PlacesPolicy
from policies.wrappers.reencode import ReencodePolicy
from tests.conftest import make_policy, make_world

G = Geometry(layers=2, heads=2, head_dim=8, tokens=6, chunk=3, columns=3)
REFUSED = [
    (lambda: HeadsPolicy(make_policy("tempcache")), "heads: TempCachePolicy rewrites or re-encodes what it stores"),
    (lambda: HeadsPolicy(make_policy("ema")), "heads: EmaPolicy rewrites or re-encodes what it stores"),
    (lambda: HeadsPolicy(make_policy("reencode")), "heads: ReencodePolicy rewrites or re-encodes what it stores"),
    (lambda: HeadsPolicy(PlacesPolicy(make_policy("reencode"), ViewLikeness())), "heads: PlacesPolicy rewrites or re-encodes"),
    (lambda: HeadsPolicy(make_policy("pooled")), "heads: PooledPolicy rewrites or re-encodes what it stores"),
    (lambda: HeadsPolicy(make_policy("lacache")), "heads: LaCachePolicy rewrites or re-encodes what it stores"),
    (lambda: HeadsPolicy(make_policy("cachecraft")), "heads: CacheCraftPolicy rewrites or re-encodes what it stores"),
    (lambda: CacheCraftPolicy(make_policy("reencode")), "cachecraft: ReencodePolicy cuts or joins the pages"),
    (lambda: ReencodePolicy(HeadsPolicy(make_policy("worldkv"))), "reencode: HeadsPolicy cuts or joins the pages"),
    (lambda: ReencodePolicy(make_policy("h2o")), "reencode: TokenBudgetPolicy cuts or joins the pages"),
    (lambda: ReencodePolicy(make_policy("tempcache")), "reencode: TempCachePolicy cuts or joins the pages"),
    (lambda: ReencodePolicy(make_policy("ema")), "reencode: EmaPolicy cuts or joins the pages"),
    (lambda: PlacedPolicy(make_policy("h2o"), Rebased()), "placed: TokenBudgetPolicy keeps rows of many frames in one page"),
    (lambda: PlacedPolicy(make_policy("sliding"), Slot(order="similarity")), "placed: plans name what was retrieved in the order of time"),
    (lambda: AnnSaPolicy(make_policy("oracle_quality")), "annsa: RetrievalPolicy tries windows before it plans"),
    (
        lambda: make_policy("oracle", "policy/selector=lookahead", "policy/selector@policy.selector.inner=oracle"),
        "what OracleSelector looks at is not known ahead",
    ),
    (
        lambda: make_policy(
            "oracle", "policy/selector=lookahead", "policy/selector@policy.selector.inner=given", "policy/selector@policy.selector.inner.inner=oracle"
        ),
        "what GivenSelector looks at is not known ahead",
    ),
    (lambda: PlacedPolicy(make_policy("pooled"), Rebased()), "placed: PooledPolicy computes with keys as they were rotated"),
    (lambda: PlacedPolicy(make_policy("razor"), Rebased()), "placed: HeadsPolicy computes with keys as they were rotated"),
    (lambda: make_policy("worldkv_slot", "policy/compressor=merge"), "retrieval: MergeCompressor makes one page of a chunk, and Slot gives"),
    (lambda: make_policy("worldkv_clamped", "policy/compressor=merge"), "retrieval: MergeCompressor makes one page of a chunk, and Clamped gives"),
    (lambda: HeadsPolicy(make_policy("h2o"), labels=None, calibrate=1, compensate=True), "heads: TokenBudgetPolicy scores single rows"),
    (lambda: HeadsPolicy(make_policy("full")), "FullPolicy does not say how many sink frames it has; give policy.sink"),
    (lambda: PlacesPolicy(make_policy("full"), ViewLikeness()), "places: FullPolicy does not say what it brings back"),
    (lambda: PlacesPolicy(CappedPolicy(make_policy("tempcache")), ViewLikeness()), "places: CappedPolicy does not say what it brings back"),
    (lambda: BoundedPolicy(make_policy("quest"), Oldest()), "kcentre: TokenBudgetPolicy does not say what it brings back"),
    (lambda: make_policy("landmark", "policy.frames=2"), "landmark: frames=2 is less than a chunk of 3"),
    (lambda: PlacedPolicy(CappedPolicy(make_policy("snapkv")), Rebased()), "placed: CappedPolicy keeps rows of many frames in one page"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_what_would_fail_later_is_refused_at_reset(make, message):
    with pytest.raises(ValueError, match=message):
        make().reset(G)


def test_a_place_whose_chunks_were_forgotten_is_founded_anew(roll):
    """Under a cap that keeps little, the second and third round through the same room are remembered like the first."""
    path = make_world(["R90R90R90R90"], repeat=3).trajectory(0)
    policy = make_policy("capped", "policy@policy.inner=places", "policy.frames=29")
    stats = roll(policy, path=path).stats
    held = [{f // 3 for f, n in enumerate(s.stored) if n} for s in stats]
    assert all(any(9 <= c <= s.chunk - 4 for c in chunks) for s, chunks in zip(stats, held, strict=True) if s.chunk > 16), held


def test_heads_take_sink_and_recent_from_whatever_they_are_around(roll):
    """However deep: a bounded bank around whole chunks, with another sink."""
    around = HeadsPolicy(make_policy("kcentre", "policy.inner.sink=6"), share=0.5)
    around.reset(G)
    assert (around._sink, around._recent) == (6, 3)
    craft = CacheCraftPolicy(make_policy("kcentre", "policy.inner.sink=6"))
    craft.reset(G)
    assert craft._sink == 6
    over = ["policy@policy.inner=kcentre", "~policy.inner.unit", "~policy.inner.retrieved"]
    plain, some = roll(make_policy("kcentre")).stats[-1], roll(make_policy("heads", *over)).stats[-1]
    assert some.attended_rows < plain.attended_rows and some.bank_bytes_gpu < plain.bank_bytes_gpu, "some heads lost what came back"


@pytest.mark.parametrize("name", ["worldkv_cake", "attention"])
def test_a_policy_says_what_it_needs_after_its_first_reset(name):
    """Of its parts, too, which say it when they are reset themselves."""
    policy = make_policy(name)
    policy.reset(G)
    once = policy.needs_attention_scores
    policy.reset(G)
    assert once is policy.needs_attention_scores is True


def test_a_seed_of_any_size_is_a_seed(roll):
    for name in ("random", "random_rows"):
        roll(make_policy(name, f"policy.{'selector' if name == 'random' else 'compressor'}.seed={10**15}"))


def test_rows_are_named_of_frames_in_the_window_alone(roll):
    """Chosen at retrieval, from a chunk that recent or blind frames reach into: once a ValueError of the plan, or a recent frame cut."""
    for recent, blind in ((3, 1), (4, 0)):
        out = roll(make_policy("worldkv", "policy.compress=retrieve", f"policy.recent={recent}", f"policy.blind={blind}"))
        for s in out.stats[4:]:
            taken = dict(zip(s.attended, s.taken, strict=True))
            assert all(taken[f] == 6 for f in range(s.start - recent, s.start)), "recent frames are whole"
