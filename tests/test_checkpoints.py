"""Loading of official checkpoints: every layout, every way to be wrong, and the memory it takes."""

import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backbones.checkpoints import LINGBOT_WORLD_FAST, MATRIX_GAME_2, load_into, missing_message, read_config, require
from tests.conftest import ROOT

CPU = torch.device("cpu")
MEGABYTE = 2**20


class Net(nn.Module):
    """A parameter of its own, nested ones, a float and an integer buffer, and one that is no part of the state dict."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(3))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, 5), nn.LayerNorm(5)) for _ in range(3))
        self.register_buffer("scale", torch.randn(2))
        self.register_buffer("count", torch.tensor([7, 2**40 + 1]))
        self.register_buffer("angles", torch.ones(2), persistent=False)


def meta(width: int = 4) -> Net:
    with torch.device("meta"):
        return Net(width)


def load(path: Path, module: nn.Module | None = None, dtype: torch.dtype = torch.float32, **settings) -> nn.Module:
    module = module or meta()
    load_into(module, path, device=CPU, dtype_of=lambda name: dtype, **settings)
    return module


def untouched(module: nn.Module) -> bool:
    return all(tensor.is_meta for tensor in module.state_dict().values())


def same(module: nn.Module, tensors: dict) -> bool:
    state = module.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[key], tensors[key]) for key in tensors)


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Net().state_dict()


def sharded(folder: Path, tensors: dict, shards: int = 3) -> Path:
    folder.mkdir()
    names = [f"net-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    weight_map = {key: names[i % shards] for i, key in enumerate(tensors)}
    for name in names:
        save_file({key: tensors[key] for key in tensors if weight_map[key] == name}, folder / name)
    (folder / "net.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def saved(path: Path, tensors: dict, **settings) -> Path:
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path, **settings)
    return path


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "net.pt", "net.bin"])
def test_one_file(tmp_path, tensors, name):
    module = load(saved(tmp_path / name, tensors))
    assert same(module, tensors)
    assert not any(p.requires_grad for p in module.parameters())
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in Net().named_parameters()]


def test_folders(tmp_path, tensors):
    assert same(load(sharded(tmp_path / "shards", tensors)), tensors)
    (tmp_path / "one").mkdir()
    saved(tmp_path / "one" / "net.safetensors", tensors)
    assert same(load(tmp_path / "one"), tensors)
    (tmp_path / "none").mkdir()
    for absent in (tmp_path / "none", tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint (at|in) {absent}"):
            load(absent)
    saved(tmp_path / "one" / "other.safetensors", tensors)
    with pytest.raises(ValueError, match=r"several checkpoints \(net.safetensors, other.safetensors\)"):
        load(tmp_path / "one")
    (tmp_path / "net.txt").touch()
    with pytest.raises(ValueError, match="net.txt is no checkpoint"):
        load(tmp_path / "net.txt")


@pytest.mark.parametrize("nesting", [("state_dict",), ("model",), ("state_dict", "model")])
def test_nested_pickle(tmp_path, tensors, nesting):
    held = tensors
    for key in reversed(nesting):
        held = {key: held, "epoch": 3}
    assert same(load(saved(tmp_path / "net.pth", held)), tensors)


def test_pickle_of_before_archives(tmp_path, tensors):
    assert same(load(saved(tmp_path / "net.pth", tensors, _use_new_zipfile_serialization=False)), tensors)


def test_loaded_tensors_do_not_depend_on_the_file(tmp_path, tensors):
    for name in ("net.safetensors", "net.pth"):
        path = saved(tmp_path / name, tensors)
        module = load(path)
        with path.open("r+b") as file:
            file.write(b"\0" * path.stat().st_size)
        assert same(module, tensors)


def test_prefix_and_renaming(tmp_path, tensors):
    prefixed = saved(tmp_path / "prefixed.safetensors", {f"model.{key}": value for key, value in tensors.items()})
    plain = saved(tmp_path / "plain.safetensors", tensors)
    assert same(load(prefixed, prefix="model."), tensors)
    assert same(load(plain, prefix="model."), tensors)
    half = saved(tmp_path / "half.safetensors", {("model." if "blocks" in key else "") + key: value for key, value in tensors.items()})
    with pytest.raises(ValueError, match="12 missing, 12 unexpected"):
        load(half, prefix="model.")
    other = saved(tmp_path / "other.safetensors", {f"model.{key.replace('blocks', 'layers')}": value for key, value in tensors.items()})
    assert same(load(other, prefix="model.", rename=lambda key: key.replace("layers", "blocks")), tensors)
    with pytest.raises(ValueError, match="has been found before"):
        load(plain, rename=lambda key: key.replace("blocks.1", "blocks.0"))


def test_dtypes(tmp_path, tensors):
    module = meta()
    path = saved(tmp_path / "net.safetensors", tensors)
    load_into(module, path, device=CPU, dtype_of=lambda name: torch.float32 if name.endswith("1.weight") else torch.bfloat16)
    for name, tensor in module.state_dict().items():
        dtype = torch.int64 if name == "count" else torch.float32 if name.endswith("1.weight") else torch.bfloat16
        assert tensor.dtype == dtype and torch.equal(tensor, tensors[name].to(dtype)), name
    halves = {key: value.bfloat16() if value.is_floating_point() else value for key, value in tensors.items()}
    assert same(load(saved(tmp_path / "half.safetensors", halves)), {k: v.float() if v.is_floating_point() else v for k, v in halves.items()})


@pytest.mark.parametrize("stored", ["0.weight", "1.weight"])
def test_tied_parameters_stay_tied(tmp_path, stored):
    with torch.device("meta"):
        module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    module[1].weight = module[0].weight
    weight = torch.randn(4, 4)
    load(saved(tmp_path / "net.safetensors", {stored: weight}), module)
    assert module[0].weight is module[1].weight and torch.equal(module.state_dict()["1.weight"], weight)


def test_wrong_keys(tmp_path, tensors):
    wrong = {key.replace("blocks", "layers"): value for key, value in tensors.items()}
    module, path = meta(), saved(tmp_path / "net.safetensors", wrong)
    with pytest.raises(ValueError, match="12 missing, 12 unexpected, 0 misshaped") as error:
        load(path, module)
    text = str(error.value)
    assert str(path) in text and "does not fit Net" in text
    assert text.count("blocks.") == text.count("layers.") == 8  # the first 8 of each
    assert text.count(", ...") == 2
    assert untouched(module)


def test_wrong_shapes_are_found_before_any_data_are_read(tmp_path, tensors):
    wrong = tensors | {"scale": torch.ones(3), "blocks.2.1.bias": torch.ones(1, 5)}
    for path in (sharded(tmp_path / "shards", wrong), saved(tmp_path / "net.pth", wrong)):
        module = meta()
        with pytest.raises(ValueError, match="0 missing, 0 unexpected, 2 misshaped") as error:
            load(path, module)
        assert "scale (found [3], expected [2])" in str(error.value)
        assert "blocks.2.1.bias (found [1, 5], expected [5])" in str(error.value)
        assert untouched(module)


def test_missing_shards(tmp_path, tensors):
    folder = sharded(tmp_path / "shards", tensors)
    for number in (1, 3):
        (folder / f"net-0000{number}-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="3 shards, 2 of them are missing: net-00001-of-00003.safetensors, net-00003-of-00003.safetensors"):
        load(folder)


def test_key_in_two_shards(tmp_path, tensors):
    folder = sharded(tmp_path / "shards", tensors)
    second = folder / "net-00002-of-00003.safetensors"
    save_file({key: tensors[key] for i, key in enumerate(tensors) if i % 3 == 1} | {"gain": tensors["gain"]}, second)
    with pytest.raises(ValueError, match=f"{second.name} holds gain, but gain has been found before"):
        load(folder)


def test_damaged_index(tmp_path, tensors):
    folder = sharded(tmp_path / "shards", tensors)
    for text in ("{", "{}", "[]", '{"weight_map": []}'):
        (folder / "net.safetensors.index.json").write_text(text)
        with pytest.raises(ValueError, match="index.json is damaged .*download it again"):
            load(folder)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, -1])
def test_truncated_file(tmp_path, tensors, name, kept):
    path = saved(tmp_path / name, tensors)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept >= 0 else -1])
    module = meta()
    with pytest.raises(ValueError, match=rf"{name} is damaged .*download it again"):
        load(path, module)
    assert untouched(module)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_pointer_instead_of_a_file(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n")
    with pytest.raises(ValueError, match=r"damaged .*download it again"):
        load(tmp_path / name)


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {shlex.quote(str(self.file))}",)


@pytest.mark.parametrize("archive", [True, False])
def test_pickled_code_is_refused(tmp_path, tensors, archive):
    path = saved(tmp_path / "net.pth", tensors | {"gain": Malicious(tmp_path / "ran")}, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"was refused: .* more than tensors \(.*system.*download it again") as error:
        load(path)
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("held", [[torch.ones(2)], {"gain": 3}, {"model": {"gain": "x"}}])
def test_pickle_without_a_state_dict(tmp_path, held):
    with pytest.raises(ValueError, match="holds no state dict"):
        load(saved(tmp_path / "net.pth", held))


def test_missing_message_has_commands_and_layout(tmp_path):
    folder = tmp_path / "my checkpoints"
    text = missing_message(LINGBOT_WORLD_FAST, folder)
    assert (
        "hf download robbyant/lingbot-world-base-cam --include Wan2.1_VAE.pth --include models_t5_umt5-xxl-enc-bf16.pth"
        f" --include 'google/umt5-xxl/*' --local-dir '{folder}'\n"
    ) in text
    assert (
        f"hf download robbyant/lingbot-world-fast --include 'diffusion_pytorch_model*' --include config.json --local-dir '{folder}/lingbot_world_fast'\n"
        in text
    )
    layout = text.split(f"Layout of {folder}:\n")[1]
    for name in ("Wan2.1_VAE.pth", "google/umt5-xxl/", "lingbot_world_fast/diffusion_pytorch_model.safetensors.index.json"):
        assert f"  {name}" in layout


def test_require_names_what_is_absent_and_the_downloads_that_help(tmp_path):
    names = ["gta_distilled_model/gta_keyboard2dim.safetensors", "Wan2.1_VAE.pth"]
    with pytest.raises(FileNotFoundError) as error:
        require(tmp_path / "none", names, MATRIX_GAME_2)
    assert f"lacks {names[0]}, {names[1]}." in str(error.value)
    assert str(error.value).count("hf download Skywork/Matrix-Game-2.0") == 2
    (tmp_path / "Wan2.1_VAE.pth").touch()
    with pytest.raises(FileNotFoundError) as error:
        require(tmp_path, names, MATRIX_GAME_2)
    assert f"lacks {names[0]}." in str(error.value)
    assert f"hf download Skywork/Matrix-Game-2.0 --include 'gta_distilled_model/*' --local-dir {tmp_path}\n" in str(error.value)
    assert "base_distill" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="robbyant/lingbot-world-fast") as error:
        require(tmp_path, ["lingbot_world_fast"], LINGBOT_WORLD_FAST)
    assert "base-cam" not in str(error.value)
    (tmp_path / "gta_distilled_model").mkdir()
    (tmp_path / names[0]).touch()
    require(tmp_path, names, MATRIX_GAME_2)


DEFAULTS = {"dim": 1536, "local_attn_size": 6, "patch_size": (1, 2, 2), "eps": 1e-6}


def test_config_may_be_missing_or_say_more(tmp_path, caplog):
    assert read_config(tmp_path, DEFAULTS) == DEFAULTS
    text = json.dumps(DEFAULTS | {"dim": 64, "eps": 1, "_class_name": "WanModel"})
    (tmp_path / "config.json").write_text(text)
    for path in (tmp_path, tmp_path / "net.safetensors"):
        config = read_config(path, DEFAULTS, fixed={"patch_size"})
        assert config == DEFAULTS | {"dim": 64, "eps": 1} and list(config) == list(DEFAULTS)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_stale_config_is_overruled_with_a_warning(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps({"dim": 5120, "patch_size": [1, 2, 2], "eps": None}))
    assert read_config(tmp_path, DEFAULTS, fixed={"dim", "patch_size"}) == DEFAULTS
    lacks, stale = [record.getMessage() for record in caplog.records]
    assert "config.json lacks local_attn_size (taken as 6), eps (taken as 1e-06)" in lacks
    assert "config.json is stale: dim is 5120, but this model's is 1536" in stale and "patch_size" not in stale


@pytest.mark.parametrize("text", ["{", "[1]", '{"dim": "big"}', '{"dim": true}', '{"eps": []}'])
def test_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json.*delete"):
        read_config(tmp_path, DEFAULTS)


MEASURE = """
import sys
from pathlib import Path
import torch
from torch import nn
from backbones.checkpoints import load_into

def kilobytes(field):  # not getrusage: its peak includes that of the process which started this one
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

with torch.device("meta"):
    module = nn.ModuleList(nn.Linear(1600, 1600, bias=False) for _ in range(30))
before = kilobytes("VmRSS")
load_into(module, Path(sys.argv[1]), device=torch.device("cpu"), dtype_of=lambda name: getattr(torch, sys.argv[2]))
assert not any(p.is_meta for p in module.parameters())
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_loading(tmp_path):
    """The peak is the network and one tensor, with no second copy; 40 % are for the allocator and read-ahead."""
    path = tmp_path / "net.safetensors"
    save_file({f"{i}.weight": torch.rand(1600, 1600) for i in range(30)}, path)
    size, largest = path.stat().st_size, 1600 * 1600 * 4
    assert size > 290 * MEGABYTE
    for dtype, network in (("float32", size), ("bfloat16", size / 2)):
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path), dtype], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        grown = int(done.stdout)
        assert network * 0.9 < grown < (network + largest) * 1.4, f"{dtype}: {grown / MEGABYTE:.0f} MB for {network / MEGABYTE:.0f} MB"
    path.unlink()  # pytest keeps the folders of three runs
