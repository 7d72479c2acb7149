"""The policy matrix: every policy, the invariants that it must keep. A new policy adds one row."""

import pytest
import torch

from harness.cache.stores import PinnedStore
from tests.conftest import CONF, make_policy, make_world
from tests.tolerances import SECOND_ROUTE

INF = float("inf")
# name, the most frame-equivalents a chunk may attend to (its own 3 included), whether anything may become unreachable
MATRIX = [
    ("full", INF, False),
    ("sliding", 18, True),
    ("sink_recent", 18, True),
    ("worldkv", 18, False),
    ("worldkv_rebased", 18, False),
    ("worldkv_release", 3 + 18 * 2 / 3 + 6, True),
    ("worldkv_release_rebased", 3 + 18 * 2 / 3 + 6, True),
    ("retrieval_only", 18, False),
    ("retrieval_rebased", 18, False),
    ("no_sink", 18, False),
    ("no_recent", 18, False),
    ("compression_only", INF, False),
    ("random", 18, False),
    ("recency", 18, False),
    ("oracle", 18, False),
    ("oracle_quality", 18, False),
    ("attention", 18, False),
    ("fov", 18, False),
    ("pointvotes", 18, False),
    ("pointvotes_true", 18, False),
    ("coverage", 18, False),
    ("latent", 18, False),
    ("lookahead", 18, False),
    ("given", 18, True),
    ("query", 18, False),
    ("query_last", 18, False),
    ("worldkv_slot", 18, False),
    ("worldkv_clamped", 18, False),
    ("full_clamped", INF, False),
    ("sink_recent_rebased", 18, True),
    ("keydiff", 18, False),
    ("random_rows", 18, False),
    ("uniform_rows", 18, False),
    ("merge", 18, False),
    ("tempcache", INF, False),
    ("tempcache_mean", INF, False),
    ("tempcache_bounded", 18, True),
    ("annsa", INF, False),
    ("annca", INF, False),
    ("fast_ar", INF, False),
    ("capped", 18, False),
    ("int4_chunks", 18, False),
    ("int4_places_coverage", 18, True),
    ("kcentre", 18, True),
    ("fifo", 18, True),
    ("places", 18, True),
    ("places_newest", 18, True),
    ("ema", 18, True),
    ("ema_global", 18, True),
    ("trained_control", 18, True),
    ("trained_retrieved", 18, False),
    ("trained_compressed", INF, False),
    ("trained_recurrent", 18, True),
    ("trained_geometry", 18, True),
    ("oracle_geometry", 18, True),
    ("landmark", 18, True),
    ("field", 18, True),
    ("pooled", 18, False),
    ("lacache", 18, True),
    ("reencode", 18, False),
    ("cachecraft", 18, False),
    ("h2o", 18, True),
    ("snapkv", 18, True),
    ("flowcache", 18, True),
    ("decoprune", 18, False),
    ("decoprune_random", 18, True),
    ("expected", 18, True),
    ("triattention", 18, False),
    ("quest", 18, False),
    ("deep_forcing", 18, True),
    ("snapkv_pyramid", 18, True),
    ("snapkv_cake", 18, True),
    ("cake", 18, True),
    ("heads", 18, False),
    ("razor", 18, False),
    ("query_heads", 18, False),
    ("query_layers", 18, False),
    ("worldkv_pyramid", 18, False),
    ("worldkv_cake", 18, False),
]
TIGHTER = {"tempcache_bounded": ("policy.limit=0.5",)}  # than the policy as it is, which loses no frame on the path of the tests
UNEVEN = {
    "tempcache",
    "tempcache_mean",
    "tempcache_bounded",
    "fast_ar",
    "snapkv_pyramid",
    "snapkv_cake",
    "cake",
    "heads",
    "razor",
    "query_heads",
    "query_layers",
    "worldkv_pyramid",
    "worldkv_cake",
}  # heads or layers see different rows

RETRIEVE = [
    "worldkv",
    "retrieval_only",
    "random",
    "recency",
    "oracle",
    "oracle_quality",
    "attention",
    "fov",
    "coverage",
    "latent",
    "query",
    "lookahead",
    "pointvotes",
    "pointvotes_true",
]


def same(a, b) -> bool:
    return torch.equal(a.latents, b.latents)


def test_matrix_names_every_policy():
    assert {name for name, *_ in MATRIX} == {p.stem for p in (CONF / "policy").glob("*.yaml")}


@pytest.mark.parametrize(("name", "budget", "forgets"), MATRIX, ids=[m[0] for m in MATRIX])
def test_invariants(name, budget, forgets, roll, backbone, trajectory):
    g = backbone.geometry
    policy = make_policy(name, *TIGHTER.get(name, ()))
    first = roll(policy)
    assert torch.isfinite(first.latents).all()
    assert max(s.attended_rows for s in first.stats) <= budget * g.tokens + 1e-9, "the window exceeds its budget"
    assert any(s.unreachable_frames for s in first.stats) == forgets, "unreachable history is not what the policy says"
    for s in first.stats:
        assert s.window_bytes >= s.attended_rows * g.row_bytes
        assert s.window_bytes == s.attended_rows * g.row_bytes or name in UNEVEN
        assert len(set(s.attended)) == len(s.attended)
        assert all(f < s.start for f in s.attended)
    other = make_world(["L90R90"], degrees=10.0).trajectory(0)
    fresh = roll(make_policy(name, *TIGHTER.get(name, ())), path=other)
    assert same(roll(policy, path=other), fresh), "state of one rollout leaks into the next"
    assert same(roll(policy, PinnedStore()), first), "the same rollout again, in another tier, differs"


@pytest.mark.parametrize("name", RETRIEVE)
def test_unlimited_budget_equals_full(name, roll, known):
    policy = make_policy(name, "policy.retrieved=inf", "policy/compressor=none")
    mine, full = roll(policy), known("full")
    if policy.probes or policy.tries:  # passes before planning leave other slots free: the same rows in another order
        assert (mine.latents - full.latents).abs().max() < SECOND_ROUTE * full.latents.abs().max()
    else:
        assert same(mine, full)


@pytest.mark.parametrize("name", RETRIEVE)
def test_nothing_retrieved_equals_sink_recent(name, roll, known):
    policy = make_policy(name, "policy.retrieved=0")
    mine, bare = roll(policy), known("sink_recent", "policy.recent=3")
    if policy.tries:  # as above
        assert (mine.latents - bare.latents).abs().max() < SECOND_ROUTE * bare.latents.abs().max()
    else:
        assert same(mine, bare)


def test_everything_kept_equals_retrieval_only(roll, known):
    assert same(roll(make_policy("worldkv", "policy.compressor.ratio=1.0")), known("retrieval_only"))


def test_a_window_as_long_as_the_rollout_equals_full(roll, known):
    for name in ("sliding", "sink_recent"):
        assert same(roll(make_policy(name, "policy.recent=300")), known("full"))


def test_policies_differ(roll):
    """The equalities above mean something only if the untrained network notices its context."""
    outs = [roll(make_policy(n)) for n in ("full", "sliding", "sink_recent", "worldkv", "random", "recency", "worldkv_rebased", "worldkv_release")]
    for i, a in enumerate(outs):
        for b in outs[:i]:
            assert (a.latents - b.latents).abs().max() > 1e-3


def test_budget_units_agree(roll, backbone):
    g = backbone.geometry
    frames = [make_policy("retrieval_only", "policy.retrieved=6", f"policy.unit={unit}") for unit in ("equivalents", "frames")]
    tokens = make_policy("retrieval_only", f"policy.retrieved={6 * g.tokens}", "policy.unit=tokens")
    bytes_ = make_policy("retrieval_only", f"policy.retrieved={6 * g.frame_bytes}", "policy.unit=bytes")
    first, *rest = (roll(p) for p in (*frames, tokens, bytes_))
    assert max(len(s.retrieved) for s in first.stats) == 6
    assert all(same(first, r) for r in rest)


def test_banked_chunks_take_half(roll, backbone):
    """Of 18 rows a chunk keeps 6 + 2 + 2 (a quarter of 6 tokens rounds up to 2), and what is in the window is not banked twice."""
    last = roll(make_policy("worldkv", "policy.retrieved=0")).stats[-1]
    assert last.chunk == 10
    evicted = 8 * 10 + 4  # chunks 1 to 8; of chunk 9 the anchor frame is still in the window
    assert last.bank_bytes_gpu == evicted * backbone.geometry.row_bytes
    assert last.bank_bytes_cpu == 0
    on_cpu = roll(make_policy("worldkv", "policy.retrieved=0"), PinnedStore()).stats[-1]
    assert (on_cpu.bank_bytes_gpu, on_cpu.bank_bytes_cpu) == (0, last.bank_bytes_gpu)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.sink=-1", "policy.sink=-1: use a whole number from 0"),
        ("policy.retrieved=-1", "retrieved=-1"),
        ("policy.unit=pages", "use equivalents, frames, tokens or bytes"),
        ("policy.compressor.ratio=1.5", "ratio=1.5"),
        ("policy.selector.degrees=0", "use a number above 0"),
    ],
)
def test_bad_fields_are_refused_at_reset(override, message, roll):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        roll(make_policy("worldkv", override))


def test_a_cap_is_kept_and_forgets_what_is_idle(roll, known):
    """Which frames are gone after every chunk, against a list kept here: the window's chunks count, and those that have ever left it once more."""
    for forget in ("lru", "oldest"):
        policy = make_policy("capped", "policy.frames=28", f"policy/evict={forget}", "policy/compressor@policy.inner.compressor=none")
        remembered, used, window, below, most = [], {}, set(), set(), []

        class Watched(type(policy)):
            def plan(self, chunk, bank):
                plan = super().plan(chunk, bank)
                chunks = {f // 3 for f in plan.frames} | {chunk.index}
                used.update(dict.fromkeys(chunks, chunk.index))  # noqa: B023
                below.update(window - chunks)  # noqa: B023
                window.clear()  # noqa: B023
                window.update(chunks)  # noqa: B023
                return plan

            def commit(self, chunk, kv, bank):
                super().commit(chunk, kv, bank)
                remembered.append(chunk.index)  # noqa: B023
                while len(window) + len(below.intersection(remembered)) > 9:  # noqa: B023
                    idle = [c for c in remembered if used[c] < chunk.index]  # noqa: B023
                    remembered.remove(min(idle, key=lambda c: (used[c] if forget == "lru" else 0, c)))  # noqa: B023
                assert bank.frames == [f for c in sorted(remembered) for f in range(3 * c, 3 * c + 3)]  # noqa: B023
                most.append(len(window) + len(below.intersection(remembered)))  # noqa: B023

        stats = roll(Watched(policy.inner, policy.frames, policy.evict)).stats
        assert max(most) == 9 and any(s.unreachable_frames for s in stats)
    assert same(roll(make_policy("capped", "policy.frames=inf")), known("worldkv"))
    with pytest.raises(ValueError, match="give frames="):
        roll(make_policy("capped", "policy.frames=5"))
