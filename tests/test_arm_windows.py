"""The windows that arms are trained with are those of the policies that use them."""

from dataclasses import fields

import pytest
import torch

from backbones.rooms import RoomsBackbone, pack
from harness.cache.stores import GpuStore
from harness.datatypes import Geometry
from harness.passes import generator
from harness.policy import PolicyWrapper
from harness.rollout import rollout
from harness.training.clips import CHUNK, collate
from harness.training.windows import Window, check_by_place, windows
from tests.conftest import make_policy
from tests.tolerances import SECOND_ROUTE
from tests.toy_arms import BASE, TRAINED, clip_of, module_for, path_of, toy_base

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_base(tmp_path_factory.mktemp("base"))


class Noted(PolicyWrapper):
    """Writes down the plans of the policy within."""

    def __init__(self, inner) -> None:
        self.inner, self.plans = inner, []

    def plan(self, chunk, bank):
        self.plans.append(super().plan(chunk, bank))
        return self.plans[-1]


@pytest.mark.parametrize("arm", TRAINED)
@pytest.mark.parametrize("policy", ["own", "full", "worldkv_rebased"])
def test_the_window_of_training_is_the_window_of_the_test(arm, policy, base):
    """The very plans of a session, to the bit; and what the network makes of the last chunk's noise within them is what a session's pass makes of it."""
    if policy == "worldkv_rebased":
        policy, overrides = "worldkv_rebased", ["policy/compressor=none"]
    else:
        policy, overrides = f"trained_{arm}" if policy == "own" else "full", []
    clip = clip_of(9)
    module = module_for(arm, base).eval()
    module.policy = make_policy(policy, *overrides)
    backbone = RoomsBackbone.of(BASE | {"levels": [1.0]}, pack(module.codec, module.network), arm, module.memory)
    forced = backbone.encode(clip.frames.float() / 255)[:-CHUNK]
    noted = Noted(make_policy(policy, *overrides))
    out = rollout(backbone, noted, GpuStore(), path_of(clip), 0, forced)

    batch = collate([clip, clip])
    latents, features, positions = module.inputs(batch)
    planned = module.windows(batch, positions, torch.Generator())
    for mine in planned:
        assert len(mine) == len(noted.plans) == 9
        for window, theirs in zip(mine, noted.plans, strict=True):
            for f in fields(theirs):
                assert getattr(window.plan, f.name) == getattr(theirs, f.name), f.name
    assert any(len(w.plan.frames) < 3 * i for i, w in enumerate(planned[0])) or arm == "compressed" or policy == "full", "every window shows everything"

    noise = torch.randn(1, CHUNK, 4, 4, generator=generator(0, path_of(clip).name, 8))
    noisy = torch.randn(2, 24, 4, 4, generator=torch.Generator().manual_seed(0))
    noisy[:, -CHUNK:] = noise
    with torch.no_grad():
        x0 = module.predict(batch, latents[:, :-CHUNK], noisy, torch.ones(2, 24), features, positions)
    torch.testing.assert_close(x0[0, -CHUNK:], x0[1, -CHUNK:], atol=1e-5, rtol=0, msg="noise of other chunks is seen")
    assert (x0[0, -CHUNK:] - out.latents[-CHUNK:]).abs().max() < SECOND_ROUTE * out.latents.abs().max()


def test_windows_are_read_off_whatever_the_policy_stores():
    """Under compression by place a page's rows are those that the policy kept; pooled ones are sums of their members."""
    clip, g = clip_of(9), Geometry(3, 2, 32, 4, CHUNK, columns=2)
    positions = torch.randn(27, 4, 3)
    whole = windows(make_policy("trained_retrieved"), g, clip.c2w, clip.intrinsics, positions)[-1]
    assert whole.weight is None and whole.mass is None and whole.rows == 4 * len(whole.plan.frames)
    assert torch.equal(whole.source, torch.cat([torch.arange(4) + 4 * f for f in whole.plan.frames]))
    assert whole.plan.times is not None and whole.plan.retrieved
    shift = torch.tensor([t - f for f, t in zip(whole.plan.frames, whole.plan.times, strict=True)]).repeat_interleave(4)
    assert torch.equal(whole.positions[:, 0], positions.flatten(0, 1)[whole.source][:, 0] + shift)
    one: Window = windows(make_policy("trained_compressed"), g, clip.c2w, clip.intrinsics, positions)[-1]
    assert one.mass is not None and one.weight is not None
    assert (one.mass == 4).sum() == 27 - 3 * 3 and (one.mass == 1).sum() == 2 * 3 * 4, "all but sink and recent frames are one row each"
    assert torch.equal(torch.zeros(one.rows).index_add_(0, one.target, one.weight), torch.ones(one.rows))
    for refused in ("attention", "query", "h2o"):
        with pytest.raises(ValueError, match="chooses by attention"):
            windows(make_policy(refused), g, clip.c2w, clip.intrinsics, positions)
    with pytest.raises(ValueError, match="counts bytes"):
        windows(make_policy("capped"), g, clip.c2w, clip.intrinsics, positions)
    for refused in ("worldkv", "keydiff", "latent"):
        with pytest.raises(ValueError, match="chooses by keys or latents"):
            check_by_place(make_policy(refused), g, clip.c2w, clip.intrinsics, positions)
    for taken in ("trained_retrieved", "trained_compressed", "random_rows", "retrieval_only"):
        check_by_place(make_policy(taken), g, clip.c2w, clip.intrinsics, positions)
    with pytest.raises(ValueError, match="encodes frames again"):
        windows(make_policy("reencode"), g, clip.c2w, clip.intrinsics, positions)


@pytest.mark.parametrize("policy", [*(f"trained_{arm}" for arm in TRAINED), "worldkv_rebased"])
def test_windows_are_those_of_a_rollout_whatever_the_precision_of_training(policy):
    """Poses under autocast to bfloat16 once made `trained_retrieved` fail on numpy; others would plan by poses of 8 bits."""
    clip, g = clip_of(9), Geometry(3, 2, 32, 4, CHUNK, columns=2)
    overrides = ["policy/compressor=none"] if policy == "worldkv_rebased" else []
    arguments = g, clip.c2w, clip.intrinsics, torch.randn(27, 4, 3)
    exact = windows(make_policy(policy, *overrides), *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = windows(make_policy(policy, *overrides), *arguments)
    assert [w.plan for w in mixed] == [w.plan for w in exact]
    assert all(torch.equal(a.source, b.source) and torch.equal(a.positions, b.positions) for a, b in zip(mixed, exact, strict=True))
