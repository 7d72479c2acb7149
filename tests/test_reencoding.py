"""A bank of latents whose K/V are made a second time: equal to those that were kept, in the plan's context, and only once."""

import pytest
import torch

from harness.cache.attention import reference
from harness.cache.reencode import Reencoder
from harness.cache.stores import PinnedStore
from harness.worlds.chunks import chunks_of
from policies.sliding import SlidingPolicy
from policies.wrappers.reencode import ReencodePolicy
from tests.conftest import make_policy
from tests.diary import Diary
from tests.tolerances import SECOND_ROUTE


def test_everything_encoded_again_equals_full(roll, backbone, trajectory):
    """No K/V is kept at all: every chunk's past is encoded from chunk 0 on, at its own positions, and gives what was stored."""
    full, again = Diary(make_policy("full")), Diary(ReencodePolicy(make_policy("full"), sink=0, recent=0))
    stored, remade = roll(full), roll(again)
    scale = stored.latents.abs().max()
    assert (stored.latents - remade.latents).abs().max() < SECOND_ROUTE * scale
    last = len(again.plans) - 1
    for layer in range(3):
        for mine, theirs in zip(again.seen[last, layer], full.seen[last, layer], strict=True):
            mine, theirs = (torch.tensor(sorted(x.flatten(1).tolist())) for x in (mine, theirs))
            assert (mine - theirs).abs().max() < SECOND_ROUTE * scale
    latents = [s.start * backbone.geometry.tokens * backbone.channels * 4 for s in remade.stats]
    assert [s.bank_bytes_gpu for s in remade.stats] == [x + 3 * 6 * 4 * 4 for x in latents], "the bank holds anything but latents"
    assert all(s.window_bytes == s.attended_rows * backbone.geometry.row_bytes for s in remade.stats)


@pytest.mark.parametrize("kept", [(0, 0), (3, 3), (0, 6)])
def test_everything_retrieved_at_contiguous_positions_equals_full(kept, roll, known):
    """With un-rotated keys and every position given by the plan: contiguous and from 0 is where everything was."""
    policy = make_policy("reencode", "policy.inner.retrieved=inf", f"policy.sink={kept[0]}", f"policy.recent={kept[1]}")
    mine, full = roll(policy), known("full")
    assert (mine.latents - full.latents).abs().max() < SECOND_ROUTE * full.latents.abs().max()
    assert torch.equal(mine.latents, roll(policy, PinnedStore()).latents)


def test_chosen_chunks_are_encoded_in_the_context_of_the_plan(roll, backbone, trajectory):
    """The window of the last chunk made by hand: its sink's raw rows, then chunk by chunk the network over a growing past."""
    diary = Diary(make_policy("reencode", "policy.inner.retrieved=6"))
    mine = roll(diary)
    plan, chunks = diary.plans[-1], chunks_of(trajectory, backbone.geometry)
    assert len(plan.retrieved) == 6 and plan.times == tuple(range(12))
    keys, values = ([] for _ in range(2))
    for f, t in zip(plan.frames[:3], plan.times, strict=False):
        k, v, at = diary.raw[f]
        at = at.clone()
        at[:, 0] = t
        keys.append(backbone.rope(at)(k))
        values.append(v)
    keys, values = torch.cat(keys, 1), torch.cat(values, 1)
    for i in (3, 6):
        chunk = chunks[plan.frames[i] // 3]
        condition, made = backbone.condition(trajectory, chunk), []
        at = condition.positions.clone()
        at[:, 0] += plan.times[i] - chunk.start
        rotate = backbone.rope(at)

        def seam(layer, q, k, v, rotate=rotate, made=made, keys=keys, values=values):
            made.append((rotate(k)[0], v[0]))
            past = zip((keys, values), made[-1], strict=True)
            return reference(rotate(q), *(torch.cat([old[layer], new])[None] for old, new in past))

        with torch.no_grad():
            backbone.denoise(mine.latents[chunk.start : chunk.start + 3][None], 0.0, condition, seam)
        keys, values = (torch.cat([old, torch.stack(new)], 1) for old, new in zip((keys, values), zip(*made, strict=True), strict=True))
    for layer in range(3):
        window = torch.cat(diary.seen[len(chunks) - 1, layer], -1).flatten(1)
        for row in torch.cat([keys[layer], values[layer]], -1).flatten(1):
            assert (window - row).abs().amax(1).min() < SECOND_ROUTE * window.abs().max(), "a row that should be in the window is not"
    stale = torch.cat(diary.kv[plan.frames[4]], -1)[2].flatten(1)
    assert (window - stale[0]).abs().amax(1).min() > 1e-3, "the rows that were thrown away came back"


def test_unchanged_selections_are_not_encoded_twice(backbone, roll, monkeypatch):
    """While the plan up to a chunk stays the same its rows stay too; `full` needs one new pass a chunk, not all of them."""
    count = []
    encode = Reencoder._encode
    monkeypatch.setattr(Reencoder, "_encode", lambda self, chunk, *rest: (count.append(chunk.index), encode(self, chunk, *rest))[1])
    chunks = len(roll(ReencodePolicy(make_policy("full"), sink=0, recent=0)).stats)
    assert count == list(range(chunks - 1))
    count.clear()
    diary = Diary(make_policy("reencode"))
    roll(diary)
    expected, before = [], ()
    for plan in diary.plans:
        common = next((i for i, (a, b) in enumerate(zip(before, plan.retrieved, strict=False)) if a != b), min(len(before), len(plan.retrieved)))
        expected += dict.fromkeys(f // 3 for f in plan.retrieved[common:])
        before = plan.retrieved
    assert len(count) < sum(len(p.retrieved) // 3 for p in diary.plans), "nothing was reused: the path tests too little"
    assert count == expected


def test_latents_go_with_their_frames(roll, backbone):
    """A policy that drops drops latents too, and places around a bank of latents bound even these."""
    sliding = roll(ReencodePolicy(SlidingPolicy(recent=6), sink=0, recent=3)).stats
    frame = backbone.geometry.tokens * backbone.channels * 4
    assert {s.bank_bytes_gpu for s in sliding[3:]} <= {6 * frame, 6 * frame + 3 * backbone.geometry.frame_bytes}
    places = make_policy("places", "policy@policy.inner=retrieval_only")
    bounded = ReencodePolicy(places, sink=3, recent=3)
    assert max(len(s.unreachable) for s in roll(bounded).stats) > 0


def test_what_cannot_be_encoded_again_is_refused(roll, backbone, monkeypatch):
    for override, message in (
        ("policy.sink=-1", "policy.sink=-1: use a whole number from 0"),
        ("policy/placement@policy.inner.placement=slot", "consecutive positions"),
        ("policy.inner.compress=retrieve policy/compressor@policy.inner.compressor=anchor", "compresses what it stores"),
        ("policy/compressor@policy.inner.compressor=merge", "compresses what it stores"),
    ):
        with pytest.raises(ValueError, match=message):
            roll(make_policy("reencode", *override.split()))
    monkeypatch.setattr(backbone, "repeatable", False)
    with pytest.raises(ValueError, match="changes more than K/V"):
        roll(make_policy("reencode"))
