"""What policies keep beside window and bank: counted from their state, chunk by chunk."""

import numpy as np
import pytest
import torch

from harness.cache.scratch import scratch_bytes
from policies.full import FullPolicy
from tests.conftest import make_policy, make_world


def test_state_is_counted_once_and_parts_with_it(backbone):
    policy = make_policy("full_clamped")
    policy.reset(backbone.geometry)
    assert scratch_bytes(policy) == 0
    whole = torch.zeros(10, 4)
    policy.inner._kept = {"a": [whole[:4], whole[2:]], "b": (torch.zeros(3, dtype=torch.uint8),)}
    assert scratch_bytes(policy) == 160 + 3, "views of one memory, and no more than it has"
    kept = np.zeros(100)
    policy.inner._kept = [kept, kept[:2], (1, torch.zeros(3, dtype=torch.uint8)), {"a": (1.0, torch.zeros(2, dtype=torch.uint8))}]
    assert scratch_bytes(policy) == 800 + 3 + 2, "a view at the beginning of an array, and what stands behind a number"
    assert scratch_bytes(FullPolicy()) == 0


def test_quest_keeps_the_extremes_of_its_pages(roll, backbone):
    """Two float32 keys a page of every frame, and the pooled queries of every layer."""
    g = backbone.geometry
    last = roll(make_policy("quest", "policy.scorer.page=2")).stats[-1]
    numbers = g.layers * g.heads * g.head_dim
    assert last.scratch_bytes == 4 * numbers * (33 * 2 * 3 + 3)
    assert last.peak_bytes >= last.bank_bytes_gpu + last.window_bytes + last.scratch_bytes


@pytest.mark.parametrize("name", ["h2o", "snapkv", "query", "attention", "coverage", "latent", "places", "tempcache_bounded"])
def test_scratch_is_counted(name, roll):
    stats = roll(make_policy(name)).stats
    assert stats[-1].scratch_bytes > 0


@pytest.mark.parametrize(("name", "dropped"), [("capped", ["policy@policy.inner=query"]), ("capped", ["policy@policy.inner=coverage"]), ("h2o", [])])
def test_what_is_forgotten_leaves_no_scratch(name, dropped, roll):
    """Under a cap, the scratch of a path three times as long is no larger."""
    rows = make_world(["R90L90R90L90R90L90R90L90"], degrees=10.0).trajectory(0)
    more = ["policy.frames=33"] if dropped else []
    stats = roll(make_policy(name, *dropped, *more), path=rows).stats
    assert stats[-1].scratch_bytes <= 1.05 * stats[9].scratch_bytes
