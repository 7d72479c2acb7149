"""Placements: the positions that attention really works with, read at the seam, and the equalities between them."""

import pytest
import torch

from harness.policy import PolicyWrapper
from harness.settings.check import check_object
from policies.parts.place.base import Absolute, Rebased
from policies.parts.place.clamped import Clamped
from policies.parts.place.slot import Slot
from tests.conftest import make_policy

SINK, RETRIEVED, RECENT = [0, 1, 2], [[9, 10, 11], [3, 4, 5]], [27, 28, 29]


class Spy(PolicyWrapper):
    """Keeps every context that attention was given in the first layer."""

    def __init__(self, inner):
        self.inner, self.keys = inner, {}

    def attend(self, q, k, v, site):
        if site.layer == 0 and site.clean:
            self.keys[site.chunk] = k.clone()
        return super().attend(q, k, v, site)


@pytest.mark.parametrize(
    ("placement", "sink", "retrieved", "recent"),
    [
        (Slot(), [21, 22, 23], [24] * 6, [27, 28, 29]),
        (Slot(distance=1, sink=False), [0, 1, 2], [26] * 6, [27, 28, 29]),
        (Slot("each", 1), [22, 23, 24], [25] * 3 + [26] * 3, [27, 28, 29]),
        (Slot("each", 1, "similarity"), [22, 23, 24], [26] * 3 + [25] * 3, [27, 28, 29]),
        (Clamped(12), [21, 21, 21], [21] * 6, [27, 28, 29]),
        (Clamped(25), [8, 8, 8], [9, 10, 11, 8, 8, 8], [27, 28, 29]),
        (Clamped(5), [28, 28, 28], [28] * 6, [28, 28, 29]),
        (Rebased(), [18, 19, 20], [21, 22, 23, 24, 25, 26], [27, 28, 29]),
    ],
)
def test_positions(placement, sink, retrieved, recent):
    assert placement.times(SINK, RETRIEVED, RECENT, 30, 3) == (*sink, *retrieved, *recent)


def test_positions_without_retrieved_or_recent_frames():
    assert Slot().times([0, 1, 2], [], [27, 28, 29], 30, 3) == (22, 23, 24, 27, 28, 29)
    assert Slot().times([], [], [], 0, 3) == ()
    assert Slot().times([], [[0, 1, 2]], [], 9, 3) == (6, 6, 6)
    assert Clamped().times([], [], [], 0, 3) == ()


@pytest.mark.parametrize("name", ["worldkv", "retrieval_only", "full", "sink_recent"])
def test_a_span_as_long_as_the_rollout_equals_absolute(name, roll):
    """Also for pages that were moved to the store and back, un-rotated and rotated again."""
    clamped = {"full": "full_clamped", "sink_recent": "sink_recent_rebased"}.get(name, name)
    policy = make_policy(clamped, "policy/placement=clamped", "policy.placement.span=300")
    assert torch.equal(roll(policy).latents, roll(make_policy(name)).latents)


def test_placements_differ(roll):
    outs = [roll(make_policy("worldkv", f"policy/placement={p}")) for p in ("absolute", "rebased", "slot", "clamped")]
    outs += [roll(make_policy("worldkv", "policy/placement=slot", f"policy.placement.{o}")) for o in ("slots=each", "distance=9")]
    for i, a in enumerate(outs):
        for b in outs[:i]:
            assert (a.latents - b.latents).abs().max() > 1e-3


@pytest.mark.parametrize("placement", ["slot", "clamped", "rebased"])
def test_attention_sees_raw_keys_at_the_planned_positions(placement, backbone, roll):
    """Second route: raw keys collected at commit, rotated once here at the positions that the placement names."""
    inner = make_policy("retrieval_only", f"policy/placement={placement}")
    spy, raw, positions, plans = Spy(inner), {}, {}, {}
    commit, plan = inner.commit, inner.plan

    def remember(chunk, kv, bank):
        for i, f in enumerate(chunk.frames):
            part = slice(6 * i, 6 * i + 6)
            raw[f], positions[f] = kv.k_raw[0][:, part].clone(), kv.positions[part].clone()
        commit(chunk, kv, bank)

    def note(chunk, bank):
        plans[chunk.index] = plan(chunk, bank)
        return plans[chunk.index]

    inner.commit, inner.plan = remember, note
    roll(spy)
    for c, p in plans.items():
        expected = []
        for f, t in zip(p.frames, p.times, strict=True):
            at = positions[f].clone()
            at[:, 0] = t
            expected.append(backbone.rope(at)(raw[f]))
        expected += [backbone.rope(positions[f])(raw[f]) for f in range(3 * c, 3 * c + 3)]
        ours, theirs = (torch.tensor(sorted(x[0].flatten(1).tolist())) for x in (spy.keys[c], torch.cat(expected, 1)))
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_rows_at_their_own_position_are_not_rotated_again(roll):
    """Of a clamped window only what the span pushes is moved: until frame 21 nothing is."""
    stats = roll(make_policy("full_clamped")).stats
    assert [s.rows_rotated > 0 for s in stats] == [s.start + 3 > 21 for s in stats]


def test_illegal_placements_are_refused(roll, backbone):
    from policies.wrappers.placed import PlacedPolicy

    for make in (lambda: Slot("two"), lambda: Slot(distance=0), lambda: Clamped(0)):
        with pytest.raises(ValueError, match="placement"):
            check_object(make(), "placement")
    with pytest.raises(ValueError, match="RetrievalPolicy places its rows itself"):
        PlacedPolicy(make_policy("worldkv_rebased"), Clamped()).reset(backbone.geometry)
    PlacedPolicy(make_policy("worldkv"), Absolute()).reset(backbone.geometry)
