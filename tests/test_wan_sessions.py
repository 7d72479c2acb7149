"""Sessions of the Wan family, whose backbones keep a streaming decoder, an image condition and action caches besides K/V."""

from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from harness.cache.stores import GpuStore
from harness.rollout import rollout
from harness.session import Session
from harness.trajectory import Trajectory
from harness.worlds.poses import integrate, pinhole
from tests.conftest import CONF, make_policy
from tests.test_session import same

SIZE, CHUNKS = (32, 32), 6
SIZES = "backbone.sizes={dim: 32, heads: 2, layers: 2, ffn: 16, context_dim: 8}"


@pytest.fixture(scope="module", params=["matrix_game2", "lingbot", "self_forcing"])
def backbone(request):
    overrides = [f"backbone={request.param}", "backbone.weights=random", "backbone.size=[32,32]", SIZES, "backbone.device=cpu", "backbone.dtype=float32"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("config", overrides).backbone, _convert_="all")


@pytest.fixture(scope="module")
def path(backbone) -> Trajectory:
    """Six chunks of walking and turning. Steps are equally long, so that LingBot's scale, the longest, is known from the first on."""
    g = backbone.geometry
    frames = g.frames_px(g.chunk * CHUNKS)
    actions = torch.zeros(frames, 6)
    actions[1:, 0] = 1
    actions[frames // 3 : frames // 2, 4] = 3.0
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return Trajectory("walk", integrate(actions, 0.1), pinhole(80.0, SIZE, frames), actions, image, (), metres=0.1)


@pytest.fixture(scope="module")
def whole(backbone, path):
    return rollout(backbone, make_policy("worldkv"), GpuStore(), path, 0)


def begin(backbone, path: Trajectory) -> Session:
    return Session.begin(backbone, make_policy("worldkv"), GpuStore(), path, 0)


def known(path: Trajectory, frames: int) -> Trajectory:
    return replace(path, c2w=path.c2w[:frames], actions=path.actions[:frames], intrinsics=path.intrinsics[:frames])


def test_steps_into_the_unknown_equal_a_rollout(backbone, path, whole):
    """The image condition grows with the path. (LingBot's rays are relative to the frame before, at 3 digits of the path's scale.)"""
    g = backbone.geometry
    session = begin(backbone, known(path, g.frames_px(g.chunk)))
    session.step()
    for i in range(1, CHUNKS):
        at = slice(g.frames_px(g.chunk * i), g.frames_px(g.chunk * (i + 1)))
        session.step(path.c2w[at], path.actions[at])
    torch.testing.assert_close(session.rollout().latents, whole.latents, rtol=0, atol=2e-5)
    assert session.rollout().noise == whole.noise and len(session.rollout().frames) == len(whole.frames)


def test_forks_take_turns_on_one_backbone(backbone, path, whole):
    session = begin(backbone, path)
    for _ in range(3):
        session.step()
    fork = session.fork()
    while session.done < CHUNKS:  # chunk by chunk, so that each has to take the backbone back
        session.step()
        fork.step()
    same(session.rollout(), whole)
    same(fork.rollout(), whole)


def test_a_session_is_saved_and_opened(backbone, path, whole, tmp_path):
    session = begin(backbone, path)
    for _ in range(3):
        session.step()
    session.save(tmp_path / "s")
    session.close()
    rollout(backbone, make_policy("full"), GpuStore(), path, 7)  # somebody else uses the backbone meanwhile
    opened = Session.open(tmp_path / "s", backbone, make_policy("worldkv"), GpuStore(), path)
    while opened.done < CHUNKS:
        opened.step()
    same(opened.rollout(), whole)


def test_a_round_trip_leaves_the_decoder_where_it_was(backbone, path, whole):
    session = begin(backbone, path)
    g = backbone.geometry
    for i in range(CHUNKS):
        session.step()
        if i == 2:
            backbone.roundtrip(torch.rand(g.frames_px(g.chunk), 3, *SIZE))
    same(session.rollout(), whole)


@pytest.mark.parametrize("name", ["pooled", "lacache", "decoprune", "expected", "triattention", "lookahead", "field", "razor"])
def test_policies_that_ask_for_more_than_keys(name, backbone, path, whole):
    """How tokens lie, what passes predicted (four latents a token), un-rotated queries, views to come: a window of 12 is kept, and it shows."""
    g = backbone.geometry
    out = rollout(backbone, make_policy(name, "budget=w12"), GpuStore(), path, 0)
    assert torch.isfinite(out.latents).all() and out.noise == whole.noise
    assert max(s.attended_rows for s in out.stats) <= 12 * g.tokens
    assert not torch.equal(out.latents, rollout(backbone, make_policy("full"), GpuStore(), path, 0).latents)
