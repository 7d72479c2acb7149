"""Heads that are shut to the past, and layers and heads that ask for chunks of their own: against masks and full matrices in float64."""

import numpy as np
import pytest
import torch

from policies.wrappers.heads import HeadsPolicy
from tests.conftest import make_policy
from tests.ledger import close, simulate

# -- heads


class Shut:
    """retrieval_only's frames, as the harness chose them, with some shut to some heads; reaches from full matrices."""

    def __init__(self, stats, share, calibrate):
        self.stats, self.share, self.calibrate, self.reach, self.far = stats, share, calibrate, [], None

    def visible(self, chunk, ledger):
        self.start = chunk.start
        shown = torch.isin(ledger.frame, torch.tensor(self.stats[chunk.index].attended, dtype=torch.long)).expand(ledger.layers, ledger.heads, -1).clone()
        self.old = (ledger.frame >= 3) & (ledger.frame < chunk.start - 3)
        if self.far is not None:
            shown &= ~self.old | self.far[..., None]
        self.some = bool((shown & self.old).any())
        return shown

    def positions(self, chunk, ledger):
        return None

    def after(self, chunk, ledger):
        if self.far is not None or not self.some:
            return
        reach = torch.zeros(ledger.layers, ledger.heads, dtype=torch.float64)
        for layer, head in np.ndindex(*reach.shape):
            share = ledger.shares(layer, head)
            sink = share[:-18][ledger.frame[:-18] < 3].sum()
            reach[layer, head] = share[: len(self.old)][self.old].sum() / (1 - sink)
        self.reach.append(reach)
        if len(self.reach) == self.calibrate:
            order = sorted(np.ndindex(*reach.shape), key=lambda at: -float(sum(self.reach)[at]))
            self.far = torch.zeros(reach.shape, dtype=torch.bool)
            for at in order[: round(self.share * reach.numel())]:
                self.far[at] = True


@pytest.mark.parametrize(("share", "calibrate"), [(0.5, 2), (0.34, 1), (0.0, 3)])
def test_heads_against_masks(share, calibrate, backbone, trajectory, roll):
    policy = make_policy(
        "heads", "policy/compressor@policy.inner.compressor=none", f"policy.share={share}", f"policy.calibrate={calibrate}", "policy.inner.retrieved=9"
    )
    mine = roll(policy)
    second = Shut(mine.stats, share, calibrate)
    assert close(mine.latents, simulate(backbone, trajectory, second))
    assert 0 < len(second.reach) == calibrate and second.far.sum() == round(6 * share)


def test_all_heads_equal_the_inner_policy(roll):
    inner = roll(make_policy("worldkv", "policy.unit=frames", "policy.retrieved=18")).latents
    assert torch.equal(roll(make_policy("heads", "policy.share=1.0")).latents, inner)
    assert torch.equal(roll(make_policy("heads", "policy.threshold=0.0")).latents, inner)
    assert not close(roll(make_policy("heads")).latents, inner)


def test_no_head_pays_for_nothing(roll, backbone):
    """With share 0 what is old is only masses and marks; with half of the heads, half of the bytes and those."""
    g = backbone.geometry
    banked = {s: roll(make_policy("heads", f"policy.share={s}")).stats[-1].bank_bytes_gpu for s in (0.0, 0.5)}
    marks = 9 * 10 * g.layers * g.heads * 5  # chunks 1 to 9, ten rows each
    assert banked[0.0] == marks
    assert banked[0.5] == 9 * 10 * g.row_bytes / 2 + marks


def test_heads_around_a_token_budget_and_full(roll, backbone):
    """DuoAttention is heads around full; around a token budget the pool that is rewritten is trimmed anew."""
    g = backbone.geometry
    for inner, rows in (("full", 24 * g.tokens), ("snapkv", 9 * g.tokens)):
        stats = roll(HeadsPolicy(make_policy(inner), sink=3, recent=3, share=0.5)).stats
        assert stats[-1].attended_rows == 9 * g.tokens + rows // 2
        held = rows + 3 * g.tokens * (inner == "full")  # a chunk has left the recent window since
        assert stats[-1].bank_bytes_gpu <= held * (g.row_bytes / 2 + g.layers * g.heads * 17)


# -- query, per layer and per head


class Asked:
    """Three whole chunks for every layer or head by its own queries: mean(q) . mean(k), best frame of a chunk."""

    def __init__(self, per):
        self.per, self.differ = per, 0

    def visible(self, chunk, ledger):
        f, start = ledger.frame, chunk.start
        shown = ((f < 3) | (f >= start - 3)).expand(ledger.layers, ledger.heads, -1).clone()
        candidates = list(range(1, (start - 3) // 3))
        votes = np.zeros((ledger.layers, ledger.heads, len(candidates)))
        for layer, head in np.ndindex(ledger.layers, ledger.heads):
            if candidates:
                q = ledger.q[layer][:, head].mean(0)
                of = [[ledger.k[layer][f == 3 * c + i, head].double().mean(0) @ q / len(q) ** 0.5 for i in range(3)] for c in candidates]
                votes[layer, head] = torch.softmax(torch.tensor([max(x) for x in of], dtype=torch.float64), 0)
        sets = set()
        for layer, head in np.ndindex(ledger.layers, ledger.heads):
            vote = votes[layer, head] if self.per == "head" else votes[layer].mean(0)
            best = [candidates[i] for i in np.argsort(-vote, kind="stable")[:3]]
            sets.add(tuple(best))
            for c in best:
                shown[layer, head, f // 3 == c] = True
        self.differ += len(sets) > 1
        return shown

    def positions(self, chunk, ledger):
        return None

    def after(self, chunk, ledger): ...


@pytest.mark.parametrize("queries", ["current", "last"])
@pytest.mark.parametrize("per", ["layer", "head"])
def test_every_head_asks_for_itself(per, queries, backbone, trajectory, roll, known):
    second = Asked(per)
    mine = roll(make_policy(f"query_{per}s", "policy/compressor=none", f"policy.selector.queries={queries}"))
    assert close(mine.latents, simulate(backbone, trajectory, second, (3, 3) if queries == "current" else None))
    assert second.differ > 2, "all choose alike"
    assert max(s.attended_rows for s in mine.stats) == 18 * 6 < max(len(s.attended) for s in mine.stats) * 6 + 18
    everything = roll(make_policy(f"query_{per}s", "policy/compressor=none", "policy.retrieved=inf", "policy.selector.queries=last"))
    assert torch.equal(everything.latents, known("full").latents)
