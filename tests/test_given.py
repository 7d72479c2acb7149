"""Only what was given comes back: against a list of the chunks that were, and the inner selector's own order among them."""

from dataclasses import replace

import pytest
import torch

from harness.cache.stores import GpuStore
from harness.session import Session
from policies.parts.select.given import GivenSelector
from tests.conftest import make_policy, make_world


@pytest.fixture(scope="module")
def path():
    """54 frames, any of which may be given."""
    path = make_world(["R90L90R60L60R90L90"], degrees=10.0).trajectory(0)
    return replace(path, images=path.reference)


@pytest.mark.parametrize("given", [6, 15])
@pytest.mark.parametrize("inner", ["pose", "coverage", "recency"])
def test_what_was_made_never_comes_back(inner, given, roll, path):
    stats = roll(
        make_policy("given", f"policy/selector@policy.selector.inner={inner}", "policy.retrieved=3", "policy/compressor=none"), path=path, given=given
    ).stats
    back = [f for s in stats for f in s.retrieved]
    assert back and max(back) < given
    for s in stats[6:]:
        made = set(range(max(given, 3), s.start - 3))
        assert made <= set(s.unreachable), "frames that the model made are unreachable once they are not recent"
        assert not set(range(given)) & set(s.unreachable)


def test_the_order_among_given_chunks_is_the_inner_selectors(roll, path):
    """With everything given but the last chunks, and those out of reach of the budget anyway, it is worldkv."""
    given = len(path.c2w) // 3 * 3 - 6
    mine, theirs = (roll(make_policy(n, "policy/compressor=none"), path=path, given=given) for n in ("given", "retrieval_only"))
    assert torch.equal(mine.latents, theirs.latents)
    few, all_of_them = (roll(make_policy(n, "policy/compressor=none"), path=path, given=12) for n in ("given", "retrieval_only"))
    assert not torch.equal(few.latents[30:], all_of_them.latents[30:])


def test_a_new_rollout_knows_nothing_of_what_the_last_one_was_given(roll, path):
    policy = make_policy("given")
    roll(policy, path=path, given=15)
    assert torch.equal(roll(policy, path=path, given=6).latents, roll(make_policy("given"), path=path, given=6).latents)


def test_a_fork_knows_what_was_given(backbone, path):
    session = Session.begin(backbone, make_policy("given"), GpuStore(), path, 0, backbone.encode(path.images)[:9])
    for _ in range(6):
        session.step()
    twin = session.fork()
    assert isinstance(twin.policy.selector, GivenSelector) and twin.policy.selector._given == {0, 1, 2}  # type: ignore[attr-defined]
    assert torch.equal(twin.step()[0], session.step()[0])
