"""Arms: weights trained on for one kind of memory. Training sees what the policy shows; what is remembered is saved and forked to the bit."""

import json
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from backbones.codecs import ConvCodec
from backbones.rooms import WEIGHTS, RoomsBackbone, TinyRoomsBackbone, load_weights, pack, save_weights
from backbones.rooms_arms import ARMS, arm_file, fingerprint, load_arm, memory_of, save_arm
from backbones.rooms_geometry import DepthHead
from backbones.rooms_network import RoomsNetwork
from backbones.warp import points_of, project, splat
from harness.cache.stores import GpuStore
from harness.datatypes import Geometry, Trajectory
from harness.policy import PolicyWrapper
from harness.reporting.data import report
from harness.reporting.groups import read_runs
from harness.reporting.terminal import comparison
from harness.reporting.text import notes, table
from harness.results.identity import comparable, config_hash, deciding
from harness.rollout import Snapshot, rollout
from harness.session import Session, generator
from harness.settings.command_line import composed, label_of
from harness.training.arm import ArmTraining
from harness.training.arm_clips import SessionClips, as_session, goes_back, palindrome
from harness.training.clips import CHUNK, Clip, Phase, Scenery, collate, make_clip, make_shot
from harness.training.command import use_of
from harness.training.depth import DepthClips, DepthTraining
from harness.training.modules import DRAWS, NOISE
from harness.training.train import train
from harness.training.windows import Window, check_by_place, windows
from harness.worlds.covisibility import CoVisibility
from harness.worlds.raycast import cast
from harness.worlds.render import depths, render
from policies.full import FullPolicy
from tests.conftest import CONF, make_policy, with_arm
from tests.made_runs import make_run
from tests.tolerances import SECOND_ROUTE

pytestmark = pytest.mark.filterwarnings("ignore")
SHIPPED = {"control": 800, "retrieved": 800, "compressed": 800, "geometry": 400}  # steps
TRAINED = ("control", "retrieved", "compressed", "recurrent", "geometry")
BASE = {
    "grid": [2, 2],
    "chunk": CHUNK,
    "levels": [1.0, 0.7],
    "codec": {"channels": 4, "width": 4, "blocks": 1},
    "network": {"width": 64, "layers": 3, "heads": 2, "mlp": 2},
}
SCENERY = Scenery(16, 80.0, 0.12, 0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Weights of a toy model, in a file: random, and open enough that what a window shows is noticed."""
    torch.manual_seed(0)
    codec, network = ConvCodec(**BASE["codec"]), RoomsNetwork(4, tokens=4, **BASE["network"])
    codec(torch.rand(8, 3, 16, 16))  # statistics for the norm
    for module in (network.modulation, network.head_modulation, network.head):
        torch.nn.init.normal_(module.weight, std=0.3)
    path = tmp_path_factory.mktemp("base") / "toy.safetensors"
    save_weights(path, BASE, pack(codec, network))
    return path


def config(base, out, name, **changes) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("experiment/train_rooms", [f"arm={name}"])
    few = {"chunks": 3, "walk_chunks": 4, "batch": 1, "steps": 1}
    small = {
        "start": str(base), "out": str(out), "workers": 0, "device": "cpu", "precision": "32-true", "checkpoint_steps": 2, "world": {"size": 16},
        "denoiser": {"levels": [1.0, 0.7], "level_weights": [0.6, 0.4], "unique": 4, "validate_every": 6, "warmup": 2, "validation": few, "rounds": 1,
                     "phases": [{"chunks": 8, "walk_chunks": 9, "batch": 2, "steps": 4}, {"chunks": 9, "walk_chunks": 12, "batch": 1, "steps": 2}]},
        "recall": {"gaps": [2], "scenes": 1},
        "arm": {"depth": {"unique": 4, "validate_every": 2, "validation": few, "phases": [{"chunks": 2, "walk_chunks": 3, "batch": 2, "steps": 2}]}},
    }  # fmt: skip
    return OmegaConf.merge(cfg, small, changes)


def clip_of(chunks: int, seed: int = 5) -> Clip:
    return as_session(make_clip(seed, chunks, chunks + 4, SCENERY))


def path_of(clip: Clip) -> Trajectory:
    frames = clip.frames.float() / 255
    return Trajectory("clip", clip.c2w, clip.intrinsics, torch.zeros(len(frames), 6), frames, ())


class Noted(PolicyWrapper):
    """Writes down the plans of the policy within."""

    def __init__(self, inner) -> None:
        self.inner, self.plans = inner, []

    def plan(self, chunk, bank):
        self.plans.append(super().plan(chunk, bank))
        return self.plans[-1]


def module_for(arm: str, path, steps: int = 6, own: float = 1.0, seed: int = 0) -> ArmTraining:
    config, tensors = load_weights(path)
    codec, network = ConvCodec(**config["codec"]), RoomsNetwork(4, tokens=4, **config["network"])
    for prefix, part in (("codec.", codec), ("network.", network)):
        part.load_state_dict({k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)})
    torch.manual_seed(1)
    memory = memory_of(arm, config)
    for weights in memory.parameters():  # as if it had learned: what begins at zero would hide what is wrong
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.3)
    settings = dict(levels=(1.0, 0.7), level_weights=(0.6, 0.4), context_noise=0.0, steps=steps, warmup=2, decay=0.4, lr_muon=0.005, lr_adam=5e-4)
    return ArmTraining(network, codec, memory, make_policy(f"trained_{arm}"), 0.8, own, 2e-3, **settings, seed=seed)


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


def test_a_missing_arm_is_named_with_the_command_that_makes_it(base, roll, backbone, trajectory):
    with pytest.raises(FileNotFoundError, match=r"toy.safetensors has no weights of the arm retrieved .*python harness/train.py arm=retrieved"):
        RoomsBackbone(base, "cpu", arm="retrieved")
    with pytest.raises(FileNotFoundError, match="weights of the arm geometry"):
        RoomsBackbone(base, "cpu", arm="oracle_geometry")
    with pytest.raises(ValueError, match="no such arm; use control, retrieved"):
        TinyRoomsBackbone(arm="nothing")
    with pytest.raises(
        ValueError, match="needs weights of the arm retrieved, TinyRoomsBackbone has no arm's; give backbone.arm=retrieved .*harness/train.py arm=retrieved"
    ):
        rollout(backbone, make_policy("trained_retrieved"), GpuStore(), trajectory, 0)
    with pytest.raises(ValueError, match="needs weights of the arm retrieved, TinyRoomsBackbone has those of the arm control"):
        rollout(with_arm("control"), make_policy("trained_retrieved"), GpuStore(), trajectory, 0)


def test_what_was_trained_says_how_to_use_it(base, tmp_path):
    file = tmp_path / "toy_control.safetensors"
    assert use_of(config(base, tmp_path, "control"), file) == f"policy=trained_control backbone.weights={base} backbone.arm={file}"
    assert use_of(config(base, tmp_path, "control", start=None), file) == f"policy=trained_control backbone.arm={file}"
    assert use_of(config(base, tmp_path, "none", arm=None), file) == f"backbone.weights={file}"


@pytest.mark.parametrize("arm", ["recurrent", "geometry"])
def test_a_memory_keeps_its_precision_beside_half_a_network(arm, trajectory):
    """In bfloat16 the state is as it was in float32, and what comes out is near."""
    outs = []
    for dtype in ("float32", "bfloat16"):
        backbone = TinyRoomsBackbone(arm=arm, dtype=dtype)
        out = rollout(backbone, make_policy(f"trained_{arm}"), GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:6], snapshot=Snapshot(chunks=3))
        outs.append((out, backbone.memory.state()))
    (whole, kept), (half, rounded) = outs
    assert [x.dtype for x in kept.values()] == [x.dtype for x in rounded.values()]
    assert (whole.latents[:6] == half.latents[:6]).all() and (whole.latents - half.latents).abs().mean() < 0.1 * whole.latents.abs().mean()


def test_the_setting_follows_the_policy():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for policy, arm, more in (("worldkv", None, []), ("trained_geometry", "geometry", []), ("worldkv", "control", ["backbone.arm=control"])):
            for backbone in ("rooms", "rooms_tiny"):
                cfg = compose("config", [f"policy={policy}", f"backbone={backbone}", *more])
                assert OmegaConf.to_container(cfg.backbone, resolve=True)["arm"] == arm
    assert {p.stem.removeprefix("trained_") for p in (CONF / "policy").glob("trained_*.yaml")} == set(TRAINED)
    assert {p.stem for p in (CONF / "arm").glob("*.yaml")} == {*TRAINED, "none", "common"}
    assert set(ARMS) == {*TRAINED, "oracle_geometry"}


@pytest.mark.parametrize("arm", SHIPPED)
def test_shipped_arms_belong_to_the_shipped_base(arm):
    """Their fingerprint is that of the base, and all saw the same clips."""
    path = WEIGHTS.with_name(f"rooms_{arm}.safetensors")
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["arm"])
    config, tensors = load_weights(WEIGHTS)
    assert path.stat().st_size <= 7e6
    assert about == {"arm": arm, "steps": SHIPPED[arm], "seed": 4, "base_steps": config["steps"], "base": fingerprint(tensors)}
    backbone = RoomsBackbone(arm=arm)
    assert backbone.arm == arm and all(x.isfinite().all() for x in backbone.network.state_dict().values())


def test_arm_files_are_differences_to_their_base(base, tmp_path):
    config, tensors = load_weights(base)
    network = {k.removeprefix("network."): x for k, x in tensors.items() if k.startswith("network.")}
    moved = {k: x + 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)) for k, x in network.items()}
    memory = memory_of("recurrent", config)
    file = tmp_path / "toy_recurrent.safetensors"
    save_arm(file, {"arm": "recurrent", "steps": 1, "seed": 0, "base_steps": 0}, tensors, moved, memory)
    name, whole, loaded = load_arm(str(file), base, config, tensors)
    assert name == "recurrent" and loaded.state_dict().keys() == memory.state_dict().keys()
    error = max((whole[f"network.{k}"] - x).abs().max() for k, x in moved.items())
    assert error < 2e-6, "half precision of the difference, not of the weights"
    assert torch.equal(whole["codec.encoder.1.weight"], tensors["codec.encoder.1.weight"])
    other = {k: x + 1 if k.startswith("network.head.") else x for k, x in tensors.items()}
    assert fingerprint(other) != fingerprint(tensors)
    with pytest.raises(ValueError, match="is the arm recurrent of the base .*give backbone.weights=FILE of its base, or train"):
        load_arm(str(file), base, config, other)
    control = tmp_path / "toy_control.safetensors"
    control.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="damaged or no arm"):
        load_arm(str(control), base, config, tensors)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged or no arm of toy.safetensors .*train it again"):
        load_arm(str(file), base, config, tensors)
    assert arm_file("oracle_geometry", base) == ("oracle_geometry", base.with_name("toy_geometry.safetensors"))
    assert arm_file("x/rooms_oracle_geometry.safetensors", base)[0] == "oracle_geometry"
    with pytest.raises(ValueError, match="says nothing of its arm"):
        arm_file("x/rooms.safetensors", base)


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


def test_without_an_arm_nothing_changed(trajectory):
    """A memory that begins shut: the network is what it was without it."""
    plain, shut = TinyRoomsBackbone(), TinyRoomsBackbone()
    with torch.no_grad():
        shut.memory = memory_of("geometry", {"codec": {"channels": 4}, "network": {"width": 64}, "grid": (2, 3)})
    outs = [rollout(b, FullPolicy(), GpuStore(), trajectory, 0, b.encode(trajectory.images)[:3]) for b in (plain, shut)]
    assert torch.equal(outs[0].latents, outs[1].latents)
    assert outs[0].stats[-1].state_bytes == 0 and outs[1].stats[-1].state_bytes > 0


@pytest.mark.parametrize("arm", ["recurrent", "geometry"])
def test_state_is_counted_saved_opened_and_forked_to_the_bit(arm, trajectory, tmp_path):
    backbone, policy = with_arm(arm), make_policy(f"trained_{arm}")
    forced = backbone.encode(trajectory.images)[:3]
    whole = rollout(backbone, policy, GpuStore(), trajectory, 0, forced)
    held = [s.state_bytes for s in whole.stats]
    frame = 3 * 16 * 24 + 2 * 8 * 12 + 4 * 20  # colours, depths in 16 bits, pose and intrinsics
    assert held == ([4 * 2 * 32 * 96] * 11 if arm == "recurrent" else [3 * frame * (i + 1) for i in range(11)])
    rollout(backbone, policy, GpuStore(), trajectory, 0, forced, snapshot=Snapshot(save=tmp_path, chunks=6))
    again = rollout(backbone, policy, GpuStore(), trajectory, 0, forced, snapshot=Snapshot(load=tmp_path))
    assert torch.equal(again.latents, whole.latents)

    session = Session.begin(backbone, policy, GpuStore(), trajectory, 0, forced)
    for _ in range(5):
        session.step()
    fork = session.fork()
    fork.revisit(range(3, 6))
    fork.revisit(range(9, 12))
    for _ in range(6):
        session.step()
    assert torch.equal(session.rollout().latents, whole.latents), "a fork changed what it was forked from"
    straight = Session.begin(backbone, policy, GpuStore(), trajectory, 0, forced)
    for _ in range(5):
        straight.step()
    straight.revisit(range(3, 6))
    straight.revisit(range(9, 12))
    assert torch.equal(straight.latents.made, fork.latents.made)
    without = rollout(TinyRoomsBackbone(), make_policy("sink_recent"), GpuStore(), trajectory, 0, forced)
    assert (without.latents - whole.latents).abs().max() > 1e-3, "the memory says nothing"
    with pytest.raises(ValueError, match="cannot be encoded again"):
        rollout(backbone, make_policy("reencode"), GpuStore(), trajectory, 0, forced)


def test_a_recurrent_state_is_read_before_it_is_written():
    """The passes of the first chunk read nothing, the second chunk reads the first; and the clean pass writes after it has read."""
    cells = with_arm("recurrent").memory
    cells.begin()
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 6, 2, 32, generator=g) for _ in range(3))
    rays = torch.randn(1, 1, 6, 23, generator=g)

    class Window:
        def __call__(self, layer, q, k, v):
            return torch.zeros_like(q)

        cross = __call__

    read, clean = cells.seam(Window(), rays, False), cells.seam(Window(), rays, True)
    assert not read(1, q, k, v).any() and not clean(1, q, k, v).any(), "the first chunk finds an empty state, its clean pass too"
    first = cells.state()["1"]
    found = read(1, q, k, v)
    assert found.any() and torch.equal(found, cells.read(1, first, rays[0]))
    assert torch.equal(cells.state()["1"], first), "a denoising pass wrote"
    assert torch.equal(clean(1, q, k, v), found) and not torch.equal(cells.state()["1"], first)
    assert not clean(0, q, k, v).any(), "a layer without a state"


def test_the_delta_rule_is_that_of_its_formula():
    """One triangular system against one token after the other, in float64."""
    cell = with_arm("recurrent").memory.cells["1"]
    g = torch.Generator().manual_seed(0)
    state, rays = torch.randn(2, 2, 32, 96, generator=g), torch.randn(2, 9, 23, generator=g)
    k, v = torch.randn(2, 9, 2, 32, generator=g), torch.randn(2, 9, 2, 32, generator=g)
    expected = torch.empty(2, 2, 32, 96, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            decay = torch.sigmoid(k[b, :, h].mean(0).double() @ cell.decay[h].double() + cell.decay_bias[h].double())
            s = decay * state[b, h].double()
            for i in range(9):
                phase = cell.waves[h].double() @ torch.cat([rays[b, i, :3], rays[b, i, 6:9]]).double()
                key = torch.cat([phase.cos(), phase.sin()]) / 48**0.5
                strength = torch.sigmoid(k[b, i, h].double() @ cell.strength[h].double() + cell.strength_bias[h].double())
                s = s + strength * torch.outer(v[b, i, h].double() - s @ key, key)
            expected[b, h] = s
    torch.testing.assert_close(cell.write(state, rays, k, v).double(), expected, atol=1e-5, rtol=1e-5)


def test_the_warp_of_true_depth_shows_what_the_ray_caster_shows():
    """Points of one view, by its true depth, fall where another view's own rays find them: to a hundredth of a pixel, where they are not hidden.
    The picture of them is the true one but for the rounding to whole pixels."""
    size, worst, unwarped, warped, shares = (64, 64), [], [], [], []
    for seed in range(3):
        shot = make_shot(seed, 4, 4, Scenery(64, 80.0, 0.12, seed % 2))
        c2w, intrinsics = shot.c2w, shot.intrinsics
        path = CoVisibility(shot.scene, c2w, intrinsics, size)
        depth = path.depth([0, 3], size)
        assert torch.equal(depth, depths(shot.scene, c2w[[0, 3]], intrinsics[[0, 3]], size))
        points = points_of(depth, c2w[[0, 3]], intrinsics[[0, 3]]).flatten(0, 1)
        column, row, z = project(points, c2w[4:5], intrinsics[4:5])
        seen = path.seen(points[None], torch.tensor([4]))[0]
        x, y = (column[0] - intrinsics[4, 2]) / intrinsics[4, 0], (row[0] - intrinsics[4, 3]) / intrinsics[4, 1]
        ray = torch.stack([x, y, torch.ones_like(x)], -1) @ c2w[4, :3, :3].T
        there = c2w[4, :3, 3] + cast(shot.scene, c2w[4:5, :3, 3], ray[None][:, seen]).depth[0][:, None] * ray[seen]
        worst.append((((there - points[seen]).norm(dim=1) / z[0, seen]) * intrinsics[4, 0]).quantile(0.99))
        true = render(shot.scene, c2w[[0, 3, 4]], intrinsics[[0, 3, 4]], size)
        picture, covered = splat(points, true[:2].permute(0, 2, 3, 1).reshape(-1, 3), c2w[4:5], intrinsics[4:5], size)
        warped.append((picture - true[2:])[covered[:, None].expand_as(picture)].square().mean())
        unwarped.append((true[1] - true[2]).square().mean())
        shares.append(covered.float().mean())
        assert (picture.permute(0, 2, 3, 1)[~covered] == 0.5).all()
    assert max(worst) < 0.01
    assert min(shares) > 0.5
    assert all(a < 0.25 * b for a, b in zip(warped, unwarped, strict=True))


def test_what_is_nearer_hides_what_is_behind():
    points = torch.tensor([[0.0, 0, 2], [0, 0, 1], [0, 0, -1], [0.5, 0, 1]])
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    image, covered = splat(points, colours, torch.eye(4)[None], torch.tensor([[4.0, 4, 4, 4]]), (8, 8))
    assert covered.sum() == 2 and image[0, :, 4, 4].tolist() == [0, 1, 0] and image[0, :, 4, 6].tolist() == [1, 1, 1]


def test_the_depth_head_learns(base):
    """On a few views, overfitted: from what a head says before it has learned to a fraction of that error."""
    config, tensors = load_weights(base)
    codec = ConvCodec(**config["codec"])
    codec.load_state_dict({k.removeprefix("codec."): x for k, x in tensors.items() if k.startswith("codec.")})
    torch.manual_seed(0)
    seen = collate([DepthClips(range(4, 5), 1, [Phase(2, 3, 1, 1)], SCENERY)[0, 0]])
    assert seen.depth.shape == (1, 6, 8, 8) and (seen.depth > 0).all()
    module = DepthTraining(DepthHead(4, 16), codec, 200, 3e-3)
    optimizer = torch.optim.AdamW(module.head.parameters(), lr=3e-3)
    errors = []
    for step in range(200):
        errors.append(module.error(seen, 0.0, torch.Generator().manual_seed(step)))
        optimizer.zero_grad()
        errors[-1].backward()
        optimizer.step()
    assert errors[-1] < 0.4 * errors[0]


def test_true_depth_is_asked_of_the_world(trajectory):
    """`oracle_geometry` keeps what the ray-caster says, and a world without geometry is refused by name."""
    backbone, policy = with_arm("oracle_geometry"), make_policy("oracle_geometry")
    forced = backbone.encode(trajectory.images)
    rollout(backbone, policy, GpuStore(), trajectory, 0, forced[:3], snapshot=Snapshot(chunks=2))
    kept = backbone.memory.state()["depth"]
    assert torch.equal(kept, trajectory.overlap.depth(range(6), (16, 24)).half())
    path = replace(trajectory, overlap=None)
    with pytest.raises(ValueError, match="does not know the true depth .*use policy=trained_geometry"):
        rollout(backbone, policy, GpuStore(), path, 0, forced[:3])


def test_runs_with_other_weights_are_compared_and_said(tmp_path):
    """One group, paired with the base's; the arm is no setting that must agree, and where there is none nothing changed."""
    base_run, trained = (make_run(tmp_path, name, quality=q) for name, q in (("full", 30.0), ("trained_control", 31.0)))
    results = json.loads((trained / "results.json").read_text())
    results["run"]["config"]["backbone"]["arm"] = "control"
    results.pop("sum", None)
    (trained / "results.json").write_text(json.dumps(results))
    runs, _ = read_runs(tmp_path)
    assert {r.group for r in runs} == {0}
    said = [n for n in notes(runs, "full") if n.startswith("other weights")]
    assert said == [
        "other weights of the same backbone (trained_control: control): a difference between weights is their training's too, not the memory's alone"
    ]
    assert report("e", runs, [])["weights"] == said
    assert "other weights of the same backbone" in " ".join(str(x) for x in comparison(tmp_path, base_run, 140).renderables)
    rows = {row["run"]: row for row in table(runs, "full")}
    assert "(5)" in next(v for k, v in rows["trained_control"].items() if k.endswith("to full")), "paired over the same trajectories"

    settings = {"policy": {}, "backbone": {"dtype": "float32"}, "world": {}, "store": {}, "metric": {}, "seed": 0}
    none, one = ({**settings, "backbone": {"dtype": "float32", "arm": arm}} for arm in (None, "control"))
    assert deciding(none) == deciding(settings) != deciding(one), "finished runs are found again"
    assert comparable(none) == comparable(settings) == comparable(one) == config_hash({k: settings[k] for k in ("backbone", "world", "metric", "seed")})


def test_weights_that_were_set_by_hand_are_in_the_label():
    overrides = ["policy=worldkv", "backbone.arm=retrieved"]
    cfg, choices = composed(CONF, overrides)
    assert label_of(cfg, choices, overrides) == "worldkv arm=retrieved"
    overrides = ["policy=worldkv", "backbone.arm=outputs/train_retrieved/rooms_retrieved.safetensors"]
    assert label_of(*composed(CONF, overrides), overrides) == "worldkv arm=train_retrieved/rooms_retrieved"
    assert label_of(*composed(CONF, ["policy=trained_control"]), ["policy=trained_control"]) == "trained_control"
