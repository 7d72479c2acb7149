"""CLIP's visual tower: against the same network written out, key names, and which part of it is used."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from backbones.wan_encoders import CLIP_MEAN, CLIP_STD, ImageEncoder, clip_keys, clip_parts

CLIP = 1e-5  # the same sums in another order, over 3 layers
WIDTH, LAYERS, SIDE = 160, 3, 28  # of the tiny tower


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


def clip_file() -> dict[str, torch.Tensor]:
    """A tiny tower by its original names, made by hand; with what the file holds besides."""
    torch.manual_seed(0)
    shapes = {
        "log_scale": (),
        "textual.token_embedding.weight": (5, 4),
        "visual.head": (WIDTH, 12),
        "visual.cls_embedding": (1, 1, WIDTH),
        "visual.pos_embedding": (1, 5, WIDTH),
        "visual.patch_embedding.weight": (WIDTH, 3, 14, 14),
    }
    norms, linears = ["visual.pre_norm", "visual.post_norm"], {}
    for layer in (f"visual.transformer.{i}" for i in range(LAYERS)):
        norms += [f"{layer}.norm1", f"{layer}.norm2"]
        linears |= {f"{layer}.attn.to_qkv": (3 * WIDTH, WIDTH), f"{layer}.attn.proj": (WIDTH, WIDTH)}
        linears |= {f"{layer}.mlp.0": (200, WIDTH), f"{layer}.mlp.2": (WIDTH, 200)}
    shapes |= {f"{name}.{kind}": (WIDTH,) for name in norms for kind in ("weight", "bias")}
    shapes |= {f"{name}.weight": shape for name, shape in linears.items()} | {f"{name}.bias": shape[:1] for name, shape in linears.items()}
    return {name: torch.randn(shape) / math.sqrt(max(shape, default=1)) for name, shape in shapes.items()}


def tower(tensors: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """The original network, written out: all layers but the last."""

    def linear(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-5)

    patches = F.conv2d(pixels, tensors["visual.patch_embedding.weight"], stride=14).flatten(2).transpose(1, 2)
    x = norm(torch.cat([tensors["visual.cls_embedding"], patches], 1) + tensors["visual.pos_embedding"], "visual.pre_norm")
    for layer in (f"visual.transformer.{i}" for i in range(LAYERS - 1)):
        q, k, v = linear(norm(x, f"{layer}.norm1"), f"{layer}.attn.to_qkv").unflatten(-1, (3, 2, 80)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(80)).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{layer}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{layer}.norm2"), f"{layer}.mlp.0")), f"{layer}.mlp.2")
    return x


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_clip(tmp_path, suffix):
    tensors = clip_file()
    encoder = ImageEncoder.from_checkpoint(saved(tmp_path / f"clip{suffix}", tensors), "cpu")
    image = torch.rand(1, 3, SIDE, SIDE) * 2 - 1
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    rows = encoder.encode(image)
    assert rows.shape == (1, 5, WIDTH)
    assert (rows - tower(tensors, ((image + 1) / 2 - mean) / std)).abs().max() <= CLIP


def test_clip_squeezes_the_image(tmp_path):
    encoder = ImageEncoder.from_checkpoint(saved(tmp_path / "clip.pth", clip_file()), "cpu")
    wide = torch.rand(1, 3, 44, 80) * 2 - 1
    assert torch.equal(encoder.encode(wide), encoder.encode(F.interpolate(wide, (SIDE, SIDE), mode="bicubic")))


def test_clip_leaves_the_last_layer_out(tmp_path):
    tensors = clip_file()
    changed = {key: tensor + 1 if f"transformer.{LAYERS - 1}" in key or "post_norm" in key else tensor for key, tensor in tensors.items()}
    image = torch.rand(1, 3, SIDE, SIDE)
    outputs = [ImageEncoder.from_checkpoint(saved(tmp_path / "clip.pth", t), "cpu").encode(image) for t in (tensors, changed)]
    assert torch.equal(*outputs)


def test_clip_dtype(tmp_path):
    encoder = ImageEncoder.from_checkpoint(saved(tmp_path / "clip.pth", clip_file()), "cpu", torch.bfloat16)
    assert encoder.model.dtype == torch.bfloat16 and encoder.encode(torch.zeros(1, 3, SIDE, SIDE)).dtype == torch.float32


def test_clip_keys():
    tensors = {key: tensor for key, tensor in clip_file().items() if key.startswith("visual.") and key != "visual.head"}
    parts = clip_parts(tensors)
    assert len(parts) == len(tensors) + 2 * 2 * LAYERS, "each qkv weight and bias becomes three"
    assert not any(name.startswith("visual.") or "qkv" in name for name in parts)
    assert clip_keys("visual.transformer.30.attn.to_qkv.bias") == "encoder.layers.30.self_attn.qkv_proj.bias"
    assert clip_keys("visual.transformer.0.mlp.2.weight") == "encoder.layers.0.mlp.fc2.weight"
    assert clip_keys("visual.pre_norm.bias") == "pre_layrnorm.bias"
    assert clip_keys("visual.something") == "visual.something", "unknown keys stay"


def test_clip_of_another_width(tmp_path):
    path = saved(tmp_path / "clip.pth", {"visual.patch_embedding.weight": torch.zeros(768, 3, 16, 16)})
    with pytest.raises(ValueError, match=re.escape(f"{path} is no ViT-H: its width 768")):
        ImageEncoder.from_checkpoint(path, "cpu")
