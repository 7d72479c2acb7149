"""Partial re-encoding: its two ends are policies of their own, and what is in between is counted from whole attention matrices."""

import pytest
import torch

from harness.cache.reencode import Reencoder
from harness.cache.stores import PinnedStore
from harness.policy import PolicyWrapper
from policies.wrappers.cachecraft import CacheCraftPolicy
from tests.conftest import make_policy, make_world
from tests.tolerances import SECOND_ROUTE


@pytest.fixture(scope="module")
def wander():
    return make_world(["WR60WL150R30SDR105WL60A"], degrees=15.0).trajectory(0)


def close(a, b):
    return (a.latents - b.latents).abs().max() < SECOND_ROUTE * b.latents.abs().max()


class Matrices(PolicyWrapper):
    """Plans, the share of attention that every chunk paid each frame of its past, and the values that its window shows."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.plans, self.paid, self.values, self.made, self.chunk = [], {}, {}, {}, 0

    def plan(self, chunk, bank):
        self.plans.append(super().plan(chunk, bank))
        return self.plans[-1]

    def attend(self, q, k, v, site):
        if site.clean and site.chunk == len(self.plans) - 1:
            p = torch.einsum("mhd,nhd->hmn", q[0].double(), k[0].double() / q.shape[-1] ** 0.5).softmax(-1).mean((0, 1))
            for f, at in site.slots.items():
                self.paid[site.chunk, f] = self.paid.get((site.chunk, f), 0) + float(p[torch.from_numpy(at)].sum()) / 3
                self.values[site.chunk, site.layer, f] = v[0, torch.from_numpy(at)].clone()
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        for i, f in enumerate(chunk.frames):
            self.made[f] = kv.v[:, 0, 6 * i : 6 * i + 6].clone()
        super().commit(chunk, kv, bank)


def test_nothing_encoded_again_is_reuse_and_everything_is_reencode(wander, roll):
    reuse, everything = (roll(make_policy("cachecraft", f"policy.share={share}"), path=wander) for share in (0.0, 1.0))
    assert close(reuse, roll(make_policy("retrieval_rebased"), path=wander))
    assert close(everything, roll(make_policy("reencode"), path=wander))
    assert not close(reuse, everything)


@pytest.mark.parametrize("inner", ["retrieval_rebased", "retrieval_only"])
def test_those_that_miss_most_are_encoded_again_and_the_others_are_as_stored(inner, wander, roll):
    witness = Matrices(CacheCraftPolicy(make_policy(inner), share=0.5))
    mine = roll(witness, path=wander)
    assert torch.equal(mine.latents, roll(CacheCraftPolicy(make_policy(inner), share=0.5), PinnedStore(), path=wander).latents)
    told = fresh = stale = 0
    for c, plan in enumerate(witness.plans):
        retrieved = list(dict.fromkeys(f // 3 for f in plan.retrieved))
        missing = {}
        for chunk in retrieved:
            if [f for f in plan.frames if f // 3 == chunk] == [3 * chunk, 3 * chunk + 1, 3 * chunk + 2]:
                before = plan.frames[: plan.frames.index(3 * chunk)]
                missing[chunk] = sum(share for (by, f), share in witness.paid.items() if by == chunk and f < 3 * chunk and f not in before)
        assert len(plan.again) == (len(missing) + 1) // 2 and plan.again <= missing.keys()
        if plan.again and len(missing) > len(plan.again):
            assert min(missing[x] for x in plan.again) >= max(m for x, m in missing.items() if x not in plan.again) - 1e-4
            told += 1
        for chunk in missing:
            same = [torch.equal(witness.values[c, layer, 3 * chunk + i], witness.made[3 * chunk + i][layer]) for layer in (1, 2) for i in range(3)]
            if chunk in plan.again:
                fresh += not any(same)
            else:
                stale += 1
                assert all(same), "a chunk that is used as stored is not as it was stored"
    assert told > 5 and fresh > 5 and stale > 5


def test_only_what_is_new_is_encoded(wander, roll, monkeypatch):
    """A chunk that is encoded again stays so while the plan before it is the same, and no other runs a pass."""
    ran, encode = [], Reencoder._encode
    monkeypatch.setattr(Reencoder, "_encode", lambda self, chunk, *rest: (ran.append(chunk.index), encode(self, chunk, *rest))[1])
    witness = Matrices(make_policy("cachecraft"))
    roll(witness, path=wander)
    expected, have = [], {}
    for plan in witness.plans:
        now = {c: (plan.frames[: plan.frames.index(3 * c)], plan.times[: plan.frames.index(3 * c) + 3]) for c in plan.again}
        expected += [c for c in sorted(now, key=lambda c: plan.frames.index(3 * c)) if have.get(c) != now[c]]
        have = now
    assert ran == expected and 5 < len(ran) < sum(len(set(f // 3 for f in p.retrieved)) for p in witness.plans)


def test_what_is_kept_is_rows_and_latents(wander, roll, backbone):
    g = backbone.geometry
    mine, plain = (roll(make_policy(name), path=wander).stats[-1] for name in ("cachecraft", "retrieval_rebased"))
    assert mine.bank_bytes_gpu == plain.bank_bytes_gpu + mine.start * g.tokens * backbone.channels * 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy@policy.inner=h2o"], "cachecraft: TokenBudgetPolicy cuts or joins the pages"),
        (["policy@policy.inner=worldkv_rebased"], "compresses what it stores"),
        (["policy/placement@policy.inner.placement=slot"], "consecutive positions"),
    ],
)
def test_what_cannot_be_encoded_again_is_refused(overrides, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy("cachecraft", *overrides))
