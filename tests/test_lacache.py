"""The ladder against a ledger of all rows with masks: the rule written out again, on what is alive."""

import pytest
import torch

from harness.datatypes import Geometry
from tests.conftest import make_policy
from tests.ledger import simulate
from tests.tolerances import SECOND_ROUTE


def ladder(count, budget, layers, span, overlap, size=3):
    """Which of `count` frames each layer holds after they came `size` at a time: groups are found by counting what is alive."""
    group = 1 + -(-(layers - span) // (span - overlap))
    stay = min(-(-span // (span - overlap)), group)
    alive, cursor = torch.zeros(layers, count, dtype=torch.bool), 0
    for first in range(0, count, size):
        alive[:, first : first + size] = True
        while int(alive[0].sum()) > budget:
            if cursor + group > int(alive[0].sum()):
                cursor = 0
            for layer in range(layers):
                rank = alive[layer].cumsum(0) - 1 - cursor
                inside = alive[layer] & (rank >= 0) & (rank < group)
                shift = layer % (group - stay + 1)
                alive[layer] &= ~inside | ((rank >= shift) & (rank < shift + stay))
            cursor += stay
    return alive


class Ladder:
    def __init__(self, budget, span, overlap):
        self.rule, self.alive = (budget, span, overlap), []

    def visible(self, chunk, ledger):
        seen, old = torch.ones(ledger.layers, ledger.heads, len(ledger.frame), dtype=torch.bool), max(0, chunk.start - 6)
        budget, span, overlap = self.rule
        self.alive.append(ladder(old, budget, ledger.layers, span, overlap))
        for frame in range(old):
            seen[:, :, ledger.frame == frame + 3] = self.alive[-1][:, frame, None, None]
        return seen

    def positions(self, chunk, ledger):
        return None

    def after(self, chunk, ledger):
        pass


@pytest.mark.parametrize(("budget", "span", "overlap"), [(9, 2, 0), (4, 1, 0), (5, 2, 0), (2, 1, 0)])
def test_the_ladder_against_masks(budget, span, overlap, roll, backbone, trajectory):
    policy = make_policy("lacache", f"policy.budget={budget}", f"policy.span={span / 3}", f"policy.overlap={overlap}")
    mine, second = roll(policy), Ladder(budget, span, overlap)
    theirs = simulate(backbone, trajectory, second)
    assert (mine.latents - theirs).abs().max() < SECOND_ROUTE * theirs.abs().max()
    last = second.alive[-1]
    assert not (last == last[:1]).all(), "all layers hold the same"
    assert max(s.attended_rows for s in mine.stats) <= (budget + 9) * 6 and mine.stats[-1].attended_rows == (int(last[0].sum()) + 9) * 6
    assert set(mine.stats[-1].unreachable) == {f + 3 for f in range(1, 24) if last[:, f].float().mean() < 0.5}


def test_half_of_the_layers_keep_one_of_two(backbone):
    """The released defaults for 32 layers: a span of 16 without overlap thins pairs, in even layers to the first and in odd ones to the second."""
    policy = make_policy("lacache")
    policy.reset(Geometry(layers=32, heads=1, head_dim=4, tokens=2, chunk=3))
    places = [list(range(10)) for _ in range(32)]
    policy._thin(places)
    assert places[0] == places[30] == [0, *range(2, 10)] and places[1] == places[31] == [1, *range(2, 10)]


def test_steps_that_overlap(backbone):
    """Six layers, a span of two of which one is shared: of five frames each layer keeps two neighbours; frame by frame as the rule says."""
    policy = make_policy("lacache", "policy.budget=7", f"policy.span={2 / 6}", "policy.overlap=1")
    policy.reset(Geometry(layers=6, heads=1, head_dim=4, tokens=2, chunk=3))
    held = [[] for _ in range(6)]
    for frame in range(40):
        held = [[*frames, frame] for frames in held]
        while len(held[0]) > 7:
            places = [list(range(len(held[0]))) for _ in range(6)]
            policy._thin(places)
            held = [[frames[i] for i in kept] for frames, kept in zip(held, places, strict=True)]
        want = ladder(frame + 1, 7, 6, 2, 1, size=1)
        assert held == [row.nonzero()[:, 0].tolist() for row in want]
    assert held[0] != held[1] != held[2] != held[3]


def test_the_ends_of_the_budget(roll, known, backbone):
    assert torch.equal(roll(make_policy("lacache", "policy.budget=inf")).latents, known("full").latents)
    assert torch.equal(roll(make_policy("lacache", "policy.budget=0")).latents, known("sink_recent", "policy.recent=3").latents)
    last = roll(make_policy("lacache")).stats[-1]
    assert last.bank_bytes_gpu == 9 * backbone.geometry.frame_bytes, "nothing is held twice or without need"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["policy.span=1.0"], "forget nothing"),
        (["policy.overlap=2"], "overlap=2 of a span of 2"),
        (["policy.span=0.33", "policy.budget=1"], "3 are thinned at once; use 2"),
    ],
)
def test_what_cannot_be_is_refused(overrides, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy("lacache", *overrides))
