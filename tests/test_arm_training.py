"""The training of arms: clips, noise, kills, and what it costs, on a toy model."""

import json
from functools import cache

import pytest
import torch

from backbones.rooms import RoomsBackbone
from backbones.rooms_arms import memory_of
from harness.cache.stores import GpuStore
from harness.reporting.trainings import trained as known_training
from harness.reporting.trainings import trainings_table
from harness.rollout import rollout
from harness.training.arm import ArmTraining
from harness.training.arm_clips import SessionClips, as_session, goes_back, palindrome
from harness.training.clips import CHUNK, Phase, collate, make_clip
from harness.training.modules import DRAWS, NOISE
from harness.training.train import train
from tests.conftest import make_policy
from tests.toy_arms import BASE, SCENERY, TRAINED, clip_of, config, module_for, path_of, toy_base

pytestmark = pytest.mark.filterwarnings("ignore")
GAPS = {str(gap): 20.0 for gap in (1, 4, 8, 15)}  # of a table of trainings


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """The weights of an arm that was trained without interruption, once for all tests."""
    return cache(lambda arm: train(config(base, tmp_path_factory.mktemp(arm) / "whole", arm)))


@pytest.mark.parametrize("arm", TRAINED)
def test_an_arm_trains_and_runs(arm, base, trained):
    whole = trained(arm)
    assert whole.name == f"toy_{arm}.safetensors" and whole.stat().st_size < 7e6
    log = next((whole.parent / "arm").rglob("metrics.csv")).read_text()
    assert "val/recall_02" in log and "val/loss" in log

    learned, plain = RoomsBackbone(base, "cpu", arm=str(whole)), RoomsBackbone(base, "cpu")
    assert learned.arm == arm and plain.arm is None
    assert not torch.equal(learned.network.blocks[0].qkv.weight, plain.network.blocks[0].qkv.weight)
    assert all(torch.equal(a, b) for a, b in zip(learned.codec.state_dict().values(), plain.codec.state_dict().values(), strict=True))
    path = path_of(clip_of(8))
    out = rollout(learned, make_policy(f"trained_{arm}"), GpuStore(), path, 0, learned.encode(path.images)[:3])
    assert torch.isfinite(out.latents).all()


@pytest.mark.parametrize("arm", ["recurrent", "geometry"])
def test_a_crash_changes_nothing(arm, base, trained, tmp_path, monkeypatch):
    """Killed in the last third, where the model's own predictions are context, and gone on with: the very same file."""
    whole = trained(arm)
    step = ArmTraining.training_step

    def crash(self, clip, index):
        if int(self.step) == 5:
            raise RuntimeError("power cut")
        step(self, clip, index)

    monkeypatch.setattr(ArmTraining, "training_step", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config(base, tmp_path / "cut", arm))
    monkeypatch.setattr(ArmTraining, "training_step", step)
    assert train(config(base, tmp_path / "cut", arm)).read_bytes() == whole.read_bytes()
    (name, once), (_, twice) = (known_training(folder) for folder in (whole.parent, tmp_path / "cut"))
    assert name == f"{arm} seed 0" and once["curve"] == twice["curve"] and once["steps"] == 6
    assert 0 < once["cpu_hours"] < 0.1 and 0 < twice["cpu_hours"] < 0.1
    memory = memory_of(arm, BASE).state_dict().values()
    assert f"| 6 | {sum(x.numel() for x in memory):,} |" in trainings_table(
        {name: json.loads(json.dumps(once | {"curve": [once["curve"][-1] | {"recall": GAPS}]}))}
    )
    (tmp_path / "cut" / whole.name).unlink()
    with pytest.raises(ValueError, match="not finished; run its command again"):
        known_training(tmp_path / "cut")


def test_arms_see_the_same_clips_with_the_same_noise(base, monkeypatch):
    """In whatever they differ, it is not what they learn from: latents, levels and noise are the same to the bit. Another seed is other noise."""
    seen = {}
    for arm, seed in (("control", 4), ("recurrent", 4), ("control", 5)):
        module = module_for(arm, base, seed=seed)
        module.step += 3
        given = []
        monkeypatch.setattr(module, "predict", lambda clip, past, noisy, level, *more: given.extend((past, noisy, level)) or noisy)  # noqa: B023
        clips = SessionClips(range(0, 10), 10, [Phase(6, 8, 2, 1)], SCENERY, 0.5)
        module.loss(collate([clips[0, i] for i in range(4)]), module.drawn(NOISE))
        seen[arm, seed] = given
    mine, same, other = seen.values()
    assert all(torch.equal(a, b) for a, b in zip(mine, same, strict=True))
    assert torch.equal(mine[0], other[0]) and not torch.equal(mine[1], other[1])  # the clips here are the same, what hides them is not
    assert not torch.equal(module.drawn(NOISE).get_state(), module.drawn(DRAWS).get_state())


def test_own_predictions_come_in_the_last_third(base, monkeypatch):
    """Nothing before, everything at the end; the first chunk is always given."""
    module = module_for("control", base, steps=9).train()
    assert [round(module.own_share(s), 3) for s in range(9)] == [0, 0, 0, 0, 0, 0, 0.333, 0.667, 1.0]
    batch = collate([clip_of(4)])
    latents, features, positions = module.inputs(batch)
    noisy = torch.randn(1, 9, 4, 4)
    pasts = []
    inner = module._x0
    monkeypatch.setattr(module, "_x0", lambda clip, seen, past, *more: pasts.append(past) or inner(clip, seen, past, *more))
    for step, calls in ((0, 1), (8, 2)):
        module.step.fill_(step)
        pasts.clear()
        x0 = module.predict(batch, latents[:, :-CHUNK], noisy, torch.ones(1, 9), features, positions)
        assert len(pasts) == calls and x0.requires_grad
        assert torch.equal(pasts[-1][:, :CHUNK], latents[:, :CHUNK])
        assert torch.equal(pasts[-1], latents[:, :-CHUNK]) == (calls == 1)
        assert not pasts[-1].requires_grad
    with torch.no_grad():
        first = inner(
            batch,
            module.windows(batch, positions, module.drawn(DRAWS)),
            latents[:, :-CHUNK],
            noisy,
            torch.ones(1, 9),
            features,
            positions,
        )
    torch.testing.assert_close(pasts[-1][:, CHUNK:], first[:, :-CHUNK])


@pytest.mark.parametrize("arm", ["control", "recurrent", "geometry"])
def test_what_an_arm_adds_learns_faster(arm, base):
    """Its own weights reach `lr_memory`, all others the rates of every arm."""
    module = module_for(arm, base)
    peaks, optimizers = {}, module.configure_optimizers()
    rates = iter(module.peaks)
    for optimizer in optimizers:
        for group, rate in zip(optimizer.param_groups, next(rates), strict=True):
            assert group["lr"] == rate
            peaks |= {id(p): rate for p in group["params"]}
    own = {peaks.pop(id(p)) for p in module.memory.parameters() if p.requires_grad}
    assert own == (set() if arm == "control" else {2e-3}) and set(peaks.values()) == {0.005, 5e-4}


def test_palindromes_go_back_the_way_they_came():
    for chunks in (4, 5):
        clip = clip_of(chunks)
        turned = palindrome(clip)
        half = chunks // 2 * CHUNK
        assert torch.equal(turned.frames[:half], turned.frames[len(turned.frames) - half :].flip(0))
        assert torch.equal(turned.c2w[:half], turned.c2w.flip(0)[:half]) and torch.equal(turned.c2w[:half], clip.c2w[:half])
        assert torch.equal(turned.times, clip.times) and turned.frames.shape == clip.frames.shape
    clips = SessionClips(range(0, 12), 12, [Phase(2, 3, 1, 1)], SCENERY, 0.5)
    for i in range(12):
        plain = as_session(make_clip(i, 2, 3, SCENERY))
        assert torch.equal(clips[0, i].frames, (palindrome(plain) if goes_back(i, 0.5) else plain).frames)
    houses = [bool(torch.rand(1, generator=torch.Generator().manual_seed(i)) < 0.5) for i in range(400)]  # as `make_shot` draws them
    back = [goes_back(i, 0.25) for i in range(400)]
    assert 70 < sum(back) < 130
    assert 0.35 < sum(h for h, b in zip(houses, back, strict=True) if b) / sum(back) < 0.65, "palindromes and houses are drawn apart"


def test_settings_of_an_arm_that_do_not_fit_are_named(base, tmp_path):
    for changes, message in (
        ({"compile": True}, "compile=true: the windows"),
        ({"denoiser": {"levels": [1.0, 0.5]}}, "denoiser.levels"),
        ({"world": {"size": 24}}, "world.size"),
        ({"arm": {"name": "control"}}, "arm.policy names the arm retrieved"),
        ({"arm": {"share": 2.0}}, "arm.share=2.0"),
        ({"start": str(tmp_path / "none.safetensors")}, "no weights at"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            train(config(base, tmp_path / "out", "retrieved", **changes))
