"""From a folder in the published layout to a rollout: miniature checkpoints, and what is said when something is missing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backbones import lingbot, matrix_game2
from backbones.matrix_game2 import ActionConfig, MatrixGame2Network
from backbones.wan_network import WanConfig
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from harness.settings.build import build
from harness.trajectory import Trajectory
from tests.conftest import make_policy
from tests.replay import golden
from tests.test_wan_clip import clip_file, saved
from tests.test_wan_encoders import save_tokenizer

SIZE = (64, 48)
TEXT_SIZES = dict(dim=60, heads=3, layers=2, ffn=64, context_dim=32)
MATRIX = (WanConfig(48, 2, 2, 64, 160, context="image", control="after_cross"), ActionConfig(1, 4, 2, 2, 64, 8, 32))


def path(frames_px: int = 21) -> Trajectory:
    image = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    actions = torch.zeros(frames_px, 6)
    actions[:, 0], actions[:, 4] = 1, 3
    c2w = torch.eye(4).repeat(frames_px, 1, 1)
    c2w[:, 2, 3] = torch.arange(frames_px) * 0.1
    return Trajectory("walk", c2w, torch.tensor([[40.0, 40, 24, 32]]).expand(frames_px, 4), actions, image, (), prompt="w7 w9")


@pytest.fixture
def lingbot_folder(tmp_path) -> Path:
    """Two shards and an index, codec, text encoder, tokenizer; no config.json, as some downloads have none."""
    torch.manual_seed(0)
    sizes = WanConfig(**TEXT_SIZES, control="after_self")
    weights = {k: v.detach().contiguous() for k, v in lingbot.LingBotNetwork(sizes, 6).state_dict().items()}
    network = tmp_path / "lingbot_world_fast"
    network.mkdir()
    names = sorted(weights)
    shards = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[::2], "diffusion_pytorch_model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({k: weights[k] for k in keys}, network / file)
    index = {"weight_map": {k: file for file, keys in shards.items() for k in keys}}
    (network / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    saved(tmp_path / "Wan2.1_VAE.pth", golden("vae/weights_wan_keys"))
    saved(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth", {k.removeprefix("w."): v for k, v in golden("text/tiny_umt5").items() if k.startswith("w.")})
    save_tokenizer(tmp_path / "google" / "umt5-xxl")
    return tmp_path


@pytest.fixture
def matrix_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(matrix_game2.PUBLISHED, "universal", MATRIX)
    torch.manual_seed(0)
    weights = {f"model.{k}": v.detach().contiguous() for k, v in MatrixGame2Network(*MATRIX).state_dict().items()}
    (tmp_path / "base_distilled_model").mkdir()
    save_file(weights, tmp_path / "base_distilled_model" / "base_distill.safetensors")
    (tmp_path / "base_distilled_model" / "config.json").write_text('{"_class_name": "WanModel"}')  # stale, as published
    saved(tmp_path / matrix_game2.VAE, golden("vae/weights_wan_keys"))
    saved(tmp_path / matrix_game2.CLIP, clip_file())
    return tmp_path


def check_rollout(backbone) -> None:
    """Two chunks; the pictures of the streaming decoder are those of its latents decoded at once, twice over."""
    trajectory = path()
    out = rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0, backbone.encode(trajectory.images))
    assert out.frames.shape == (21, 3, *SIZE) and out.generated.all()
    assert out.frames.std() > 0
    backbone.begin(trajectory)
    assert torch.equal(backbone.decode(out.latents), out.frames)
    again = rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0)
    assert torch.equal(again.frames, out.frames), "state of one rollout leaks into the next"
    assert backbone.roundtrip(trajectory.images).shape == trajectory.images.shape


def test_lingbot_from_its_folder(lingbot_folder):
    backbone = lingbot.load(str(lingbot_folder), size=SIZE, dtype="float32", device="cpu", sizes=TEXT_SIZES)
    assert backbone.context(path()).shape == (1, 512, 32)
    assert backbone.context(path())[0, 3:].abs().max() == 0, "w7, w9 and the end; then padding, which is zero and is attended to"
    check_rollout(backbone)


def test_sizes_from_config_json(lingbot_folder):
    told = {theirs: TEXT_SIZES[ours] for theirs, ours in lingbot.NAMES.items()} | {"_class_name": "WanModelFast"}
    (lingbot_folder / "lingbot_world_fast" / "config.json").write_text(json.dumps(told))
    assert lingbot.load(str(lingbot_folder), size=SIZE, dtype="float32", device="cpu").network.config.dim == 60
    (lingbot_folder / "lingbot_world_fast" / "config.json").write_text(json.dumps(told | {"dim": "sixty"}))
    with pytest.raises(ValueError, match="dim='sixty' should be like 5120"):
        lingbot.load(str(lingbot_folder))


def test_matrix_game2_from_its_folder(matrix_folder):
    backbone = matrix_game2.load(str(matrix_folder), size=SIZE, dtype="float32", device="cpu")
    assert backbone.context(path()).shape == (1, 5, 160)
    check_rollout(backbone)


@pytest.mark.parametrize(("load", "sizes"), [(lingbot.load, TEXT_SIZES), (matrix_game2.load, dict(dim=48, heads=2, layers=2, ffn=64))])
def test_random_weights_are_the_same_for_every_policy(load, sizes):
    backbone = load("random", size=SIZE, dtype="float32", device="cpu", sizes=sizes)
    first, second = (rollout(backbone, make_policy("full"), GpuStore(), path(), 0) for _ in range(2))
    assert torch.isfinite(first.latents).all() and torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("lost", ["lingbot_world_fast", "Wan2.1_VAE.pth", "google/umt5-xxl"])
def test_what_is_missing_is_named_with_its_download(lingbot_folder, lost):
    (lingbot_folder / lost).rename(lingbot_folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"(?s)lacks .*hf download robbyant/") as error:
        lingbot.load(str(lingbot_folder), sizes=TEXT_SIZES)
    assert lost in str(error.value)


def test_an_empty_folder_gets_all_commands(tmp_path):
    for load, repository in ((lingbot.load, "robbyant/lingbot-world-fast"), (matrix_game2.load, "Skywork/Matrix-Game-2.0")):
        with pytest.raises(FileNotFoundError, match=f"hf download {repository}"):
            load(str(tmp_path))


def test_another_variant_is_refused_by_its_keys(lingbot_folder, matrix_folder):
    with pytest.raises(ValueError, match=r"patch_embedding_wancamctrl.weight \(found \[60, 1536\], expected \[60, 1792\]\)"):
        lingbot.load(str(lingbot_folder), variant="act", sizes=TEXT_SIZES, device="cpu")
    with pytest.raises(ValueError, match="0 missing, 0 unexpected, [1-9]"):
        matrix_game2.load(str(matrix_folder), device="cpu", sizes=dict(ffn=32))


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (lingbot, dict(variant="camera"), "use cam or act"),
        (matrix_game2, dict(variant="minecraft"), "use universal, gta_drive or templerun"),
        (lingbot, dict(dtype="float8"), "use float32 or bfloat16"),
        (lingbot, dict(size=(60, 48), sizes=TEXT_SIZES), r"multiples of 16 pixels; use \[48, 48\]"),
    ],
)
def test_settings_that_cannot_work(model, settings, message):
    with pytest.raises(ValueError, match=message):
        build({"_target_": f"{model.__name__}.load", "weights": "random", **settings}, "backbone")


def test_images_of_another_size_are_refused():
    backbone = lingbot.load("random", size=(32, 32), sizes=TEXT_SIZES, dtype="float32", device="cpu")
    with pytest.raises(ValueError, match=r"works at \(32, 32\); set world.size=\[32, 32\]"):
        backbone.begin(path())
    with pytest.raises(ValueError, match="set world.size"):
        backbone.encode(path().images)


def test_keys_of_the_variants():
    actions = torch.tensor([[1.0, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 9, 0], [0, 0, 0, 0, -9, 0]])
    assert matrix_game2.keys_of("universal")(actions)[0].tolist() == [1, 0, 0, 1]
    assert matrix_game2.keys_of("gta_drive")(actions).tolist() == [[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]
    assert matrix_game2.keys_of("templerun")(actions).argmax(1).tolist() == [6, 0, 5, 4, 3]  # right, none, left, turns
