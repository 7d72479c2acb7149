"""Averages of what left the window, against second routes in float64: running ones, one of all rows, those of a field's slots."""

import pytest
import torch

from tests.conftest import make_policy
from tests.diary import Diary, wandering


@pytest.fixture(scope="module")
def wander():
    return wandering()


def test_ema_equals_the_recursion(roll, backbone, trajectory):
    """Averages in float64 over raw rows as they were committed."""
    diary = Diary(make_policy("ema", "policy.recent=4"))
    stats = roll(diary, path=trajectory).stats
    last = stats[-1].chunk
    for share, mean in ((0.01, 3), (0.1, 4)):
        folded = range(3, 3 * last + 3 - 4)
        want = [x.double() for x in diary.raw[3]]
        for f in list(folded)[1:]:
            want = [(1 - share) * m + share * x.double() for m, x in zip(want, diary.raw[f], strict=True)]
        page = diary.bank.page(mean)
        for have, m in zip((page.k[:, 0], page.v[:, 0], page.positions[0, :, 1:]), (*want[:2], want[2][:, 1:]), strict=True):
            assert (have - m).abs().max() < 1e-5
    assert [s.attended_rows for s in stats[4:]] == [6 * (3 + 2 + 4 + 3)] * (last - 3)


def test_a_global_average_is_the_mean_of_all_rows_that_leave(roll):
    """The released default, in float64: one update a chunk, the same key and value in every place."""
    diary = Diary(make_policy("ema_global", "policy.recent=6"))
    stats = roll(diary).stats
    last = stats[-1].chunk
    for share, mean in ((0.01, 3), (0.1, 4)):
        want = None
        for first in range(3, 3 * last + 3 - 6, 3):
            new = [torch.cat([diary.raw[f][i] for f in range(first, first + 3)], 1).double().mean(1) for i in (0, 1)]
            want = new if want is None else [(1 - share) * m + share * x for m, x in zip(want, new, strict=True)]
        page = diary.bank.page(mean)
        for have, m in zip((page.k[:, 0], page.v[:, 0]), want, strict=True):
            assert (have - m[:, None]).abs().max() < 1e-5
    assert [s.attended_rows for s in stats[5:]] == [6 * (3 + 2 + 6 + 3)] * (last - 4)


def test_ema_positions_start_at_zero(roll, backbone):
    diary = Diary(make_policy("ema", "policy.recent=4", "policy.long=0.0", "policy.short=1.0"))
    roll(diary)
    plan, last = diary.plans[-1], len(diary.plans) - 1
    assert plan.times == tuple(range(9)) and plan.start == 9
    newest = 3 * last - 5  # with these shares the long average is the first frame that left, the short one the newest
    sources = [0, 1, 2, 3, newest, *range(3 * last - 4, 3 * last + 3)]
    for layer in range(3):
        keys = []
        for place, f in enumerate(sources):
            k, _, at = diary.raw[f]
            at = at.clone()
            at[:, 0] = place
            keys.append(backbone.rope(at)(k[layer][None])[0])
        ours, theirs = (torch.tensor(sorted(x.flatten(1).tolist())) for x in (diary.seen[last, layer][0], torch.cat(keys)))
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("slots", [2, 5])
def test_a_field_is_the_means_of_what_its_slots_took_in(slots, wander, roll, backbone):
    """Clusters of frames in float64: the members of every slot, kept as lists, and their means at the end."""
    diary = Diary(make_policy("field", f"policy.slots={slots}"))
    last = len(roll(diary, path=wander).stats) - 1
    members, moved = [], 0

    def like(a, b):
        a, b = (torch.stack([diary.raw[m][0].double().mean(1).flatten() for m in group]).mean(0) for group in (a, b))
        return float(a @ b / (a.norm() * b.norm()))

    for f in range(3, 3 * last):
        groups = [*members, [f]]
        if len(groups) > slots:
            a, b = max(((i, j) for i in range(slots) for j in range(i + 1, slots + 1)), key=lambda at: like(groups[at[0]], groups[at[1]]))
            groups[a], groups[b] = groups[a] + groups[b], groups[-1]
            groups.pop()
            moved += b < slots
        members = groups
    assert moved >= 2, "newcomers always joined a slot, and none took a free one"
    assert len([g for g in members if len(g) > 1]) >= 2, "frames all went to one slot"
    for group in members:
        page = diary.bank.page(group[0])
        for have, which in ((page.k[:, 0], 0), (page.v[:, 0], 1)):
            assert (have - torch.stack([diary.raw[m][which].double() for m in group]).mean(0)).abs().max() < 1e-4
        assert (page.positions[0, :, 1:] - torch.stack([diary.raw[m][2][:, 1:].double() for m in group]).mean(0)).abs().max() < 1e-4
    plan = diary.plans[-1]
    assert plan.start == 3 + slots + 3 and plan.times == tuple(range(3 + slots + 3)), "sink, slots and recent frames stand one after the other"
    assert {f for f in diary.held[-1] if 3 <= f < 3 * last - 3} == set(plan.frames[3 : 3 + slots]) and len(diary.held[-1]) == 6 + slots
