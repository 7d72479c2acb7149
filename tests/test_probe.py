"""The pass before planning: whose queries a policy then has, over which window, and what it costs."""

import pytest
import torch

from harness.policy import PolicyWrapper
from tests.conftest import make_policy


class Watch(PolicyWrapper):
    """Notes the passes and plans of every chunk, in order."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.log, self.queries = [], {}

    def plan(self, chunk, bank):
        plan = super().plan(chunk, bank)
        self.log.append((chunk.index, "sketch" if chunk.probing else "plan", plan.frames))
        return plan

    def attend(self, q, k, v, site):
        if site.layer == 0:
            self.log.append((site.chunk, "probe" if site.probe else "clean" if site.clean else "noisy", site.context_rows))
            self.queries[site.chunk, "probe" if site.probe else site.step] = q.clone()
        return super().attend(q, k, v, site)


@pytest.mark.parametrize("name", ["query", "attention", "quest", "query_heads"])
def test_a_probe_runs_over_sink_and_recent_before_the_plan(name, roll, backbone):
    policy = Watch(make_policy(name))
    stats = roll(policy).stats
    for chunk in (4, 9):
        mine = [entry for entry in policy.log if entry[0] == chunk]
        assert [kind for _, kind, _ in mine] == ["sketch", "probe", "plan", *["noisy"] * len(backbone.timesteps), "clean"]
        assert mine[0][2] == (0, 1, 2, *range(3 * chunk - 3, 3 * chunk)) and mine[1][2] == 6 * backbone.geometry.tokens
        assert torch.equal(policy.queries[chunk, "probe"], policy.queries[chunk, 0]), "in the first layer a pass over another window has the same queries"
    assert [kind for c, kind, _ in policy.log if c == 0] == ["plan", "clean"], "the first chunk has no past"
    assert all(s.seconds_passes > 0 for s in stats)


@pytest.mark.parametrize(("name", "field"), [("query", "selector"), ("attention", "selector"), ("quest", "scorer")])
def test_without_a_probe_the_last_chunks_queries_decide(name, field, roll):
    stale = Watch(make_policy(name, f"policy.{field}.queries=last"))
    mine = roll(stale)
    assert not any(kind in ("probe", "sketch") for _, kind, _ in stale.log)
    assert not torch.equal(mine.latents, roll(make_policy(name)).latents)
    with pytest.raises(ValueError, match="use current or last"):
        roll(make_policy(name, f"policy.{field}.queries=next"))


def test_a_chunk_that_is_given_is_probed_without_a_clean_pass(roll, backbone, trajectory):
    """Of six given frames the second chunk's probe runs at the least noisy level: t = 0 is only for the pass whose K/V are kept."""
    levels, denoise = [], backbone.denoise
    backbone.denoise = lambda x, t, condition, kv: (levels.append(t), denoise(x, t, condition, kv))[1]
    try:
        roll(make_policy("query"), given=6)
    finally:
        del backbone.denoise
    assert levels[:3] == [0.0, backbone.timesteps[-1], 0.0]


def test_policies_without_a_probe_are_untouched(roll):
    policy = Watch(make_policy("worldkv"))
    roll(policy)
    assert not any(kind in ("probe", "sketch") for _, kind, _ in policy.log)
