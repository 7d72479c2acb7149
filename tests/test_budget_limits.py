"""What token budgets keep: as much as they say, between none and everything; how layers share it, and what is refused."""

import pytest
import torch

from harness.cache.page import Page
from harness.datatypes import Geometry
from policies.parts.pool import best_rows
from policies.parts.score.deco import owners
from tests.conftest import make_policy, make_world
from tests.diary import Diary
from tests.ledger import close

SCORED = ["h2o", "snapkv", "flowcache", "quest", "deep_forcing", "snapkv_pyramid", "snapkv_cake", "cake", "expected", "triattention"]


@pytest.mark.parametrize("name", SCORED)
def test_unlimited_budget_equals_full(name, roll, known):
    """Bit by bit where keys stay rotated, and no pass before planning puts rows into other slots."""
    mine, full = roll(make_policy(name, "policy.budget=inf")).latents, known("full").latents
    assert close(mine, full)
    assert torch.equal(mine, full) or name in ("flowcache", "deep_forcing", "quest")


@pytest.mark.parametrize("name", ["h2o", "snapkv", "quest", "snapkv_pyramid"])
def test_no_budget_equals_sink_recent(name, roll, known):
    assert torch.equal(roll(make_policy(name, "policy.budget=0")).latents, known("sink_recent", "policy.recent=3").latents)


@pytest.mark.parametrize("name", SCORED)
def test_a_budget_is_never_exceeded_and_the_rest_is_gone(name, roll, backbone):
    g = backbone.geometry
    policy = make_policy(name)
    budget, fixed = int(policy.budget * g.tokens), (policy.sink + policy.recent + 3) * g.tokens
    stats = roll(policy).stats
    assert max(s.attended_rows for s in stats) == budget + fixed, "the budget is used up, and not exceeded"
    rows = 24 * g.tokens if name == "quest" else budget  # Quest drops nothing: chunks 1 to 8 are in the bank, chunk 9 in the window
    kept = stats[-1].bank_bytes_gpu - (g.layers * rows * g.heads * 12 if name != "quest" else 0)  # rows of heads bring their positions
    if policy.raw_keys:
        kept -= (policy.sink + policy.recent) * g.tokens * g.row_bytes
    if policy.split.weights() == [1.0] * g.layers:
        assert kept == rows * g.row_bytes
    else:
        marks = max(s.window_bytes for s in stats) // g.row_bytes - fixed  # a mass (4) and a mark (1) a row and head, absent ones too
        assert kept <= budget * g.row_bytes + g.layers * g.heads * marks * (12 + 5)


def test_a_long_rollout_stays_within_its_budget(backbone, roll):
    """Bytes and rows stand still once the pool is full."""
    path = make_world(["R90L90R90L90R90L90R90L90"], degrees=10.0).trajectory(0)
    stats = roll(make_policy("snapkv_pyramid"), path=path).stats
    assert len(stats) > 15
    assert len({s.bank_bytes_gpu for s in stats[10:]}) == 1 and len({s.attended_rows for s in stats[10:]}) == 1


def test_quest_moves_what_it_chose_and_rewrites_nothing(backbone, roll):
    """Three times as long a past: the bytes that a chunk moves stay those of its window, whatever lies in the bank."""
    g, path = backbone.geometry, make_world(["R90L90R90L90R90L90R90L90"], degrees=10.0).trajectory(0)
    policy = make_policy("quest", "policy.scorer.page=2")
    stats = roll(policy, path=path).stats
    assert len(stats) > 15 and stats[-1].bank_bytes_gpu >= 2 * stats[8].bank_bytes_gpu
    assert max(s.bytes_moved for s in stats[8:]) <= (9 + 3) * g.frame_bytes, "at most the pool that is chosen, and the frames that leave the window"
    assert len({s.window_bytes for s in stats[8:]}) == 1


def test_of_many_pages_only_the_rows_that_are_kept_are_read(monkeypatch):
    """The same page as by joining all of them, which would copy the whole past at every chunk."""
    dice = torch.Generator().manual_seed(0)
    pages = [Page(*torch.randn(2, 2, 2, n, 3, 4, generator=dice), torch.randn(2, n, 3, generator=dice)) for n in (6, 1, 6, 4, 6)]
    rows = torch.stack([torch.randperm(23, generator=dice)[:9] for _ in range(6)]).view(2, 3, 9).transpose(1, 2).contiguous()
    for some in (rows, rows.masked_fill(torch.rand(rows.shape, generator=dice) < 0.3, -1), rows * 0 + 7):
        expected = Page.joined(pages).keep(some)
        with monkeypatch.context() as patch:
            patch.setattr(Page, "joined", lambda pages: pytest.fail("whole pages are copied"))
            page = Page.taken(pages, some)
        assert all(torch.equal(getattr(page, name), getattr(expected, name)) for name in ("k", "v", "positions"))
        assert (page.mass is None and expected.mass is None) or torch.equal(page.mass, expected.mass)
        assert page.k.is_contiguous() and page.v.is_contiguous()
    none = Page.taken(pages, rows[:, :0])
    assert none.rows == 0 and none.k.shape[1] == 2
    assert torch.equal(Page.taken(pages[:1], rows[:, :2] % 6).k, pages[0].keep(rows[:, :2] % 6).k)


def test_quest_never_joins_whole_pages(roll, monkeypatch):
    monkeypatch.setattr(Page, "joined", lambda pages: pytest.fail("whole pages are copied"))
    diary = Diary(make_policy("quest", "policy.scorer.page=2"))
    roll(diary)
    assert max(len(frames) for plan in diary.plans for frames in plan.pools.values()) > 9, "rows of many pages were taken"


@pytest.mark.parametrize("per_head", [True, False])
def test_the_best_rows_are_those_that_a_stable_sort_finds(per_head):
    """With ties, absent rows, layers that keep different numbers, and runs of rows that share a score."""
    g, dice = Geometry(3, 2, 4, 6, 3), torch.Generator().manual_seed(1)
    for trial in range(60):
        n, run = int(torch.randint(1, 40, (), generator=dice)), 1 + 2 * (trial % 2)
        score = torch.randint(0, 5, (3, n, 2), generator=dice).float()
        score[torch.rand(score.shape, generator=dice) < 0.2] = -torch.inf
        if trial % 7 == 0:
            score[torch.rand(score.shape, generator=dice) < 0.1] = torch.nan
        counts = torch.randint(0, n * run + 1, (3,), generator=dice).tolist()
        counts = [c // 3 * 3 for c in counts] if trial % 4 == 1 else counts
        whole = score.repeat_interleave(run, 1) if per_head else score.mean(2, keepdim=True).repeat_interleave(run, 1)
        found = best_rows(score, counts, per_head, g, run)
        for layer, count in enumerate(counts):
            for head in range(whole.shape[2]):
                own = whole[layer, :, head].nan_to_num(torch.inf, torch.inf, -torch.inf).tolist()
                best = sorted(sorted(range(n * run), key=lambda i, x=own: (-x[i], i))[:count])
                mine = (found[layer, :, head] if per_head else found[layer]).tolist()
                assert mine == [-1] * (max(counts) - count) + best


def test_a_frame_is_unreachable_once_most_heads_lost_it(roll, backbone):
    last = roll(make_policy("snapkv", "policy.budget=1")).stats[-1]
    lost = set(last.unreachable)
    assert 24 - 3 - 6 <= len(lost) <= 24 - 1 and lost <= set(range(3, 27)), "six rows a head, of 24 frames"


def test_the_control_of_decoprune_is_matched(roll, backbone):
    """The same number of tokens at the same places of the window, of other tokens; and it runs no pass that decoprune does not run."""
    deco, random = roll(make_policy("decoprune")), roll(make_policy("decoprune_random"))
    assert [s.attended_rows for s in deco.stats] == [s.attended_rows for s in random.stats]
    assert [s.bank_bytes_gpu for s in deco.stats] == [s.bank_bytes_gpu for s in random.stats]
    assert not close(deco.latents, random.latents)
    assert not close(random.latents, roll(make_policy("decoprune_random", "policy.scorer.seed=1")).latents)


def test_a_token_of_several_latents_owns_a_square_of_them():
    """Four columns of tokens of 2x2 latents: the latents that lie in a token's square, found by their coordinates."""
    owner = owners(48, Geometry(1, 1, 4, 12, 3, columns=4)).tolist()
    for latent, token in enumerate(owner):
        (y, x), (row, column) = divmod(latent, 8), divmod(token, 4)
        assert 2 * row <= y < 2 * row + 2 and 2 * column <= x < 2 * column + 2
    with pytest.raises(ValueError, match="48 latents a frame for 12 tokens in unknown columns"):
        owners(48, Geometry(1, 1, 4, 12, 3))


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("h2o", "policy.sink=-1", "policy.sink=-1: use a whole number from 0"),
        ("h2o", "policy.budget=-1", "budget=-1"),
        ("h2o", "policy.scorer.decay=2", "decay=2"),
        ("snapkv", "policy.scorer.kernel=4", "an odd whole number"),
        ("flowcache", "policy.scorer.mix=2", "mix=2"),
        ("quest", "policy.scorer.parts=5", "parts that divide the 18 rows"),
        ("quest", "policy.realign=all", "use realign=sink"),
        ("expected", "policy.realign=sink", "use realign=none"),
        ("decoprune", "policy.scorer.step=1", "step=1, but of 2 passes"),
        ("triattention", "policy.realign=all", "use realign=none"),
        ("snapkv_pyramid", "policy.split.beta=0.1", "beta=0.1"),
        ("snapkv_cake", "policy.split.tau_shift=0", "tau_shift=0"),
        ("heads", "policy.share=2", "share=2"),
        ("heads", "policy.calibrate=0", "calibrate=0"),
    ],
)
def test_bad_fields_are_refused(name, override, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy(name, override))


# -- layers
