"""The quality oracle: trials leave the rollout as it is, say what the model would make, and choose by nothing else."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
import torch

from harness.cache.stores import GpuStore
from harness.datatypes import Geometry, Plan
from harness.evaluation.audit import SubstitutedPolicy
from harness.policy import PolicyWrapper
from harness.replaying.replay import refuse
from harness.rollout import rollout
from harness.system.ranks import Ranks
from harness.worlds.chunks import chunk_at
from policies.parts.select.controls import OracleSelector
from policies.parts.select.quality import QualitySelector
from tests.conftest import make_policy

GEOMETRY = Geometry(1, 1, 4, 6, 3)


class Trying(PolicyWrapper):
    """Tries three windows before every plan, and plans as the policy in it does. tried: chunk -> frames -> dB."""

    def __init__(self, inner):
        self.inner, self.tried = inner, {}

    def reset(self, geometry):
        super().reset(geometry)
        self.tries = True

    def plan(self, chunk, bank):
        if chunk.trial is not None:
            windows = [(0, 1, 2), tuple(range(chunk.start)), tuple(sorted({*range(3, 6), *range(chunk.start - 3, chunk.start)}))]
            self.tried[chunk.index] = {frames: chunk.trial(frames) for frames in windows}
        return self.inner.plan(chunk, bank)


class Fixed(PolicyWrapper):
    """Attends to the given frames at one chunk, and keeps what the model's first guess there was."""

    def __init__(self, inner, at, frames):
        self.inner, self.at, self.frames, self.guess = inner, at, frames, None

    def plan(self, chunk, bank):
        return Plan.of_frames(self.frames) if chunk.index == self.at else self.inner.plan(chunk, bank)

    def commit(self, chunk, kv, bank):
        if chunk.index == self.at:
            self.guess = kv.guesses[0, 0]
        super().commit(chunk, kv, bank)


def test_trials_leave_the_rollout_alone(roll):
    """Rows lie in other slots of the window after a trial: sums in another order, and nothing else."""
    plain, tried = roll(make_policy("retrieval_only")), roll(trying := Trying(make_policy("retrieval_only")))
    torch.testing.assert_close(tried.latents, plain.latents, rtol=0, atol=1e-4)
    assert tried.noise == plain.noise and [s.attended for s in tried.stats] == [s.attended for s in plain.stats]
    assert sorted(trying.tried) == list(range(1, 11)), "every chunk that is generated"


def test_a_trial_is_what_the_model_makes(roll, backbone, trajectory):
    """Against a rollout that really attends to those frames: its first guess, decoded, against the true views."""
    roll(trying := Trying(make_policy("retrieval_only")))
    for at, frames in ((4, (0, 1, 2)), (8, (3, 4, 5, 21, 22, 23)), (8, tuple(range(24)))):
        roll(fixed := Fixed(make_policy("retrieval_only"), at, frames))
        shown = backbone.decode(fixed.guess)
        error = (shown - trajectory.reference[3 * at : 3 * at + 3]).square().mean().item()
        assert trying.tried[at][frames] == pytest.approx(-10 * torch.tensor(error).log10().item(), abs=1e-3)
    assert len({round(v, 6) for v in trying.tried[8].values()}) == 3, "windows differ in what they are worth"


@dataclass
class Worth:
    """A trial that knows what every chunk is worth, and that two of them are worth nothing together."""

    worth: dict[int, float]
    calls: int = 0

    def __call__(self, frames: Iterable[int]) -> float:
        self.calls += 1
        shown = {f // 3 for f in frames}
        return sum(self.worth.get(c, 0) for c in shown) - 9 * ({2, 5} <= shown)


def test_it_is_greedy_over_the_pool(trajectory):
    chunk, window, candidates = chunk_at(trajectory, GEOMETRY, 9), [0, 1, 2, 24, 25, 26], [1, 2, 3, 4, 5, 6, 7]
    covering = list(OracleSelector().order(chunk, candidates, window))
    selector = QualitySelector(pool=7)
    selector.reset(GEOMETRY)
    trial = Worth({1: 1.0, 2: 8.0, 3: 2.0, 4: 3.0, 5: 7.0, 6: 4.0, 7: 2.0})
    assert list(selector.order(replace(chunk, trial=trial), candidates, window)) == [2, 6, 4, 3, 7, 1, 5]
    assert trial.calls == 7 + 6 + 5 + 4 + 3 + 2 + 1
    few = QualitySelector(pool=3)
    few.reset(GEOMETRY)
    order = list(few.order(replace(chunk, trial=Worth({c: float(c) for c in candidates})), candidates, window))
    assert order[:3] == sorted(covering[:3], reverse=True) and order[3:] == covering[3:]
    assert list(few.order(chunk, candidates, window)) == covering, "a chunk whose truth is not known"


def test_where_it_cannot_be(roll, backbone, trajectory):
    blind = rollout(backbone, make_policy("oracle_quality"), GpuStore(), replace(trajectory, reference=None), 0, backbone.encode(trajectory.images)[:3])
    assert torch.equal(blind.latents, roll(make_policy("oracle")).latents), "without a truth it is the oracle of coverage"
    with pytest.raises(ValueError, match="a replay has no model"):
        refuse(make_policy("oracle_quality"), "oracle_quality", backbone.geometry)
    with pytest.raises(ValueError, match="oracle_quality` works in one process only"):
        make_policy("oracle_quality").reset(replace(GEOMETRY, ranks=Ranks(2)))


@pytest.mark.parametrize("name", ["given", "capped", "placed"])
def test_what_is_around_it_passes_trials_on(name, roll):
    """A wrapper that dropped the wish would turn it into the oracle of coverage, and nobody would notice."""
    overrides = {
        "given": ("given", "policy/selector@policy.selector.inner=oracle_quality"),
        "capped": ("capped", "policy@policy.inner=oracle_quality"),
        "placed": ("worldkv_rebased", "policy/selector=oracle_quality"),
    }[name]
    policy = make_policy(*overrides)
    roll(policy)
    assert policy.tries


def test_an_audit_plans_with_trials_too(roll):
    """The plan that is changed is the one that the policy would have made."""
    roll(policy := make_policy("oracle_quality"))
    assert SubstitutedPolicy(policy, lambda plan, chunk, bank: plan).tries


@pytest.mark.parametrize("name", ["reencode", "cachecraft"])
def test_trials_and_chunks_that_are_encoded_again_do_not_go_together(name):
    policy = make_policy(name, "policy/selector@policy.inner.selector=oracle_quality")
    with pytest.raises(ValueError, match=f"{name}: a selector that tries plans assembles them"):
        policy.reset(GEOMETRY)
