"""Loading of official checkpoints: every layout, every way to be wrong, and the memory it takes."""

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from backbones.checkpoints import load_into, read_config
from backbones.sources import LINGBOT_WORLD_FAST, MATRIX_GAME_2, missing_message, require
from tests.conftest import ROOT

INDEX = "net.safetensors.index.json"
SHARDS = [f"net-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]


class Net(nn.Module):
    """A parameter of its own, nested ones, a float and an integer buffer, and one that is no part of the state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(3))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5)) for _ in range(3))
        self.register_buffer("scale", torch.randn(2))
        self.register_buffer("count", torch.tensor([7, 2**40 + 1]))
        self.register_buffer("angles", torch.ones(2), persistent=False)


TENSORS = {key: value.clone() for key, value in Net().state_dict().items()}


def meta() -> Net:
    with torch.device("meta"):
        return Net()


def load(path: Path, module: nn.Module | None = None, **settings) -> nn.Module:
    module = module or meta()
    load_into(module, path, device=torch.device("cpu"), dtype_of=lambda name: torch.float32, **settings)
    return module


def loaded(module: nn.Module, tensors: dict = TENSORS) -> bool:
    state = module.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[key], tensors[key]) for key in tensors)


def saved(path: Path, tensors: Any = TENSORS, **settings) -> Path:
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path, **settings)
    return path


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def sharded(folder: Path, tensors: dict = TENSORS, extra: str | None = None, without: tuple[str, ...] = ()) -> Path:
    """Three shards and their index. extra: a key that the second shard holds besides its own. without: shards to leave out."""
    where = {key: SHARDS[i % 3] for i, key in enumerate(tensors)}
    for name in sorted(set(SHARDS) - set(without)):
        saved(folder / name, {key: tensors[key] for key in tensors if where[key] == name or (key == extra and name == SHARDS[1])})
    return written(folder / INDEX, json.dumps({"weight_map": where})).parent


def renamed(tensors: dict, old: str, new: str) -> dict:
    return {re.sub(old, new, key): value for key, value in tensors.items()}


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth", "net.pt", "net.bin"])
def test_one_file(tmp_path, name):
    path = saved(tmp_path / name)
    module = load(path)
    written(path, bytes(path.stat().st_size))
    assert loaded(module), "the network is a view of its file"
    assert not any(p.requires_grad for p in module.parameters())
    assert [name for name, _ in module.named_parameters()] == [name for name, _ in Net().named_parameters()]


def test_folders(tmp_path):
    assert loaded(load(saved(tmp_path / "one.safetensors").parent))
    assert loaded(load(sharded(tmp_path)))  # beside an index, other files do not count


@pytest.mark.parametrize("archive", [True, False])  # False: as torch wrote before 1.6
@pytest.mark.parametrize("held", [{"state_dict": TENSORS, "epoch": 3}, {"model": TENSORS}, {"state_dict": {"model": TENSORS}}])
def test_nested_and_old_pickles(tmp_path, held, archive):
    assert loaded(load(saved(tmp_path / "net.pth", held, _use_new_zipfile_serialization=archive)))


def test_prefix_and_renaming(tmp_path):
    path = saved(tmp_path / "net.safetensors", renamed(TENSORS, "^", "model."))
    assert loaded(load(path, prefix="model."))
    assert loaded(load(saved(path), prefix="model."))
    assert loaded(load(saved(path, renamed(TENSORS, "^blocks", "layers")), rename=lambda key: key.replace("layers", "blocks")))
    with pytest.raises(ValueError, match="12 missing, 12 unexpected"):  # a prefix that only some keys carry
        load(saved(path, renamed(TENSORS, "^blocks", "model.blocks")), prefix="model.")
    with pytest.raises(ValueError, match="has been found before"):
        load(saved(path), rename=lambda key: key.replace("blocks.1", "blocks.0"))


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_dtypes(tmp_path, name):
    module, dtypes = meta(), {key: torch.float32 if key.endswith("1.weight") else torch.bfloat16 for key in TENSORS}
    load_into(module, saved(tmp_path / name), device=torch.device("cpu"), dtype_of=dtypes.__getitem__)
    dtypes["count"] = torch.int64
    assert loaded(module, {key: value.to(dtypes[key]) for key, value in TENSORS.items()})
    assert {key: value.dtype for key, value in module.state_dict().items()} == dtypes


@pytest.mark.parametrize("stored", ["0.weight", "1.weight"])
def test_tied_parameters_stay_tied(tmp_path, stored):
    module = nn.Sequential(*(nn.Linear(4, 4, bias=False, device="meta") for _ in range(2)))
    module[1].weight, weight = module[0].weight, torch.randn(4, 4)
    load(saved(tmp_path / "net.safetensors", {stored: weight}), module)
    assert module[0].weight is module[1].weight and loaded(module, {"0.weight": weight, "1.weight": weight})


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("ran",)


WRONG = TENSORS | {"scale": torch.ones(3), "blocks.2.1.bias": torch.ones(1, 5)}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n"
REFUSED = {  # what lies at the path, then the error and what it says
    "nothing": (lambda p: p / "net", FileNotFoundError, "no checkpoint at {p}/net"),
    "empty folder": (lambda p: p, FileNotFoundError, "no checkpoint in {p}"),
    "two files": (lambda p: saved(saved(p / "a.safetensors").with_stem("b")).parent, ValueError, r"several checkpoints \(a.safetensors, b.safetensors\)"),
    "other file": (lambda p: written(p / "net.txt", ""), ValueError, "net.txt is no checkpoint"),
    "missing shards": (lambda p: sharded(p, without=tuple(SHARDS[::2])), FileNotFoundError, f"3 shards, 2 .* missing: {SHARDS[0]}, {SHARDS[2]}"),
    "key in two shards": (lambda p: sharded(p, extra="gain"), ValueError, f"{SHARDS[1]} holds gain, but gain has been found before"),
    "wrong keys": (lambda p: saved(p / "net.pth", renamed(TENSORS, "blocks", "layers")), ValueError, "12 missing, 12 unexpected, 0 misshaped"),
    "listed keys": (lambda p: sharded(p, renamed(TENSORS, "blocks", "layers")), ValueError, r": (blocks\S+, ){8}\.{3}\n.*: (layers\S+, ){8}\.{3}$"),
    "misshaped": (lambda p: sharded(p, WRONG), ValueError, r"0 missing, 0 unexpected, 2 misshaped.*scale \(found \[3\], expected \[2\]\)"),
    "misshaped in a pickle": (lambda p: saved(p / "net.pth", WRONG), ValueError, "{p}/net.pth does not fit Net: .* 2 misshaped"),
    "pickled list": (lambda p: saved(p / "net.pth", [torch.ones(2)]), ValueError, "holds no state dict"),
    "pickled number": (lambda p: saved(p / "net.pth", {"model": {"gain": 3}}), ValueError, "holds no state dict"),
    "pointer": (lambda p: written(p / "net.safetensors", POINTER), ValueError, "net.safetensors is damaged .*download it again"),
    "pointer in a pickle": (lambda p: written(p / "net.pth", POINTER), ValueError, "net.pth was refused: it is damaged .*download it again"),
    "torn index": (lambda p: written(p / INDEX, '{"weight').parent, ValueError, "index.json is damaged .*download it again"),
    "index without map": (lambda p: written(p / INDEX, "{}").parent, ValueError, "index.json is damaged"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_data_are_read(tmp_path, case):
    make, error, text = REFUSED[case]
    module = meta()
    with pytest.raises(error, match="(?s)" + text.replace("{p}", str(tmp_path))):
        load(make(tmp_path), module)
    assert all(tensor.is_meta for tensor in module.state_dict().values())


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.9999])
def test_truncated_file(tmp_path, name, kept):
    data = saved(tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=rf"{name} is damaged .*download it again"):
        load(written(tmp_path / name, data[: int(kept * len(data))]))


@pytest.mark.parametrize("archive", [True, False])
def test_pickled_code_is_refused(tmp_path, monkeypatch, archive):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "net.pth", TENSORS | {"gain": Malicious()}, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"was refused: .* more than tensors \(.*mkdir.*download it again") as error:
        load(path)
    assert "weights_only" not in str(error.value) and not Path("ran").exists()


def test_missing_message_has_commands_and_layout(tmp_path):
    commands, layout = missing_message(LINGBOT_WORLD_FAST, tmp_path / "a b").split(f"Layout of {tmp_path / 'a b'}:\n")
    codec = "Wan2.1_VAE.pth --include models_t5_umt5-xxl-enc-bf16.pth --include 'google/umt5-xxl/*'"
    assert f"hf download robbyant/lingbot-world-base-cam --include {codec} --local-dir '{tmp_path}/a b'\n" in commands
    network = "'diffusion_pytorch_model*' --include config.json"
    assert f"hf download robbyant/lingbot-world-fast --include {network} --local-dir '{tmp_path}/a b/lingbot_world_fast'\n" in commands
    assert "  Wan2.1_VAE.pth" in layout and f"  lingbot_world_fast/diffusion_pytorch_model{INDEX[3:]}" in layout


def test_require_names_what_is_absent_and_the_downloads_that_help(tmp_path):
    folder, network = tmp_path / "new", "gta_distilled_model/gta_keyboard2dim.safetensors"
    with pytest.raises(FileNotFoundError, match=f"{folder} lacks {network}, Wan2.1_VAE.pth.\n") as error:
        require(folder, [network, "Wan2.1_VAE.pth"], MATRIX_GAME_2)
    assert str(error.value).count("hf download Skywork/Matrix-Game-2.0") == 2 and "base_distill" not in str(error.value)
    (folder / network).mkdir(parents=True)
    require(folder, [network], MATRIX_GAME_2)
    for name, download in (("lingbot_world_fast", "fast"), ("google/umt5-xxl", "base-cam")):
        with pytest.raises(FileNotFoundError) as error:
            require(folder, [name], LINGBOT_WORLD_FAST)
        assert re.findall(r"hf download robbyant/lingbot-world-(\S+)", str(error.value)) == [download]


SIZES = {"dim": 1536, "local_attn_size": 6, "patch_size": (1, 2, 2), "eps": 1e-6}


def test_config_may_be_missing_or_say_otherwise(tmp_path, caplog):
    assert read_config(tmp_path, SIZES) == SIZES
    written(tmp_path / "config.json", json.dumps(SIZES | {"dim": 64, "eps": 1, "_class_name": "WanModel"}))
    for path in (tmp_path, tmp_path / "net.safetensors"):
        assert list(read_config(path, SIZES, fixed={"patch_size"}).items()) == list((SIZES | {"dim": 64, "eps": 1}).items())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_stale_config_is_overruled_with_a_warning(tmp_path, caplog):
    written(tmp_path / "config.json", json.dumps({"dim": 5120, "patch_size": [1, 2, 2], "eps": None}))
    assert read_config(tmp_path, SIZES, fixed={"dim", "patch_size"}) == SIZES
    lacks, stale = [record.getMessage() for record in caplog.records]
    assert lacks.endswith("config.json lacks local_attn_size (taken as 6), eps (taken as 1e-06)")
    assert stale.endswith("config.json is stale: dim is 5120, but this model's is 1536")


@pytest.mark.parametrize("text", ["{", "[1]", '{"dim": "big"}', '{"dim": true}', '{"eps": []}'])
def test_damaged_config(tmp_path, text):
    with pytest.raises(ValueError, match=r"config.json.*delete"):
        read_config(written(tmp_path / "config.json", text), SIZES)


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
print((kilobytes("VmHWM") - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_loading(tmp_path):
    """The peak is the network and one tensor, with no second copy; 40 % are for the allocator and the file's own pages."""
    path = saved(tmp_path / "net.safetensors", {f"{i}.weight": torch.rand(1600, 1600) for i in range(30)})
    size, largest = path.stat().st_size, 1600 * 1600 * 4
    for dtype, network in (("float32", size), ("bfloat16", size / 2)):
        grown = int(subprocess.check_output([sys.executable, "-c", MEASURE, str(path), dtype], cwd=ROOT))
        assert network * 0.9 < grown < (network + largest) * 1.4, dtype
    path.unlink()  # 300 MB, and pytest keeps the folders of three runs
