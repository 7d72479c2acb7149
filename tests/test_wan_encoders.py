"""Wan's VAE, UMT5 and CLIP: parity with the reference, streaming, key names, every layout and every way to be wrong."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan  # pyright: ignore[reportPrivateImportUsage]
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from backbones.wan_encoders import CLIP_MEAN, CLIP_STD, ImageEncoder, TextEncoder, clean, clip_keys, clip_parts, umt5_keys
from backbones.wan_vae import WanVAE, vae_keys

GOLDEN = Path(__file__).parent / "golden"
VAE_WEIGHTS = GOLDEN / "vae" / "weights_wan_keys.safetensors"
ENCODE, DECODE, TEXT = 1e-5, 1e-3, 1e-5  # against the reference in float32; `decoded` is stored in float16
HALF = 2e-2  # a decoder in float16 against float32, pixels in [-1, 1]; the measured difference is 3e-3
CLIP = 1e-5  # the same sums in another order, over 3 layers
WIDTH, LAYERS, SIDE = 160, 3, 28  # of the tiny CLIP


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    (save_file if path.suffix == ".safetensors" else torch.save)(tensors, path)
    return path


# --- VAE


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "vae" / "io.safetensors")


@pytest.fixture(scope="module")
def one_shot(io) -> torch.Tensor:
    return WanVAE.from_checkpoint(VAE_WEIGHTS, "cpu").decode(io["latent_in"])


@pytest.fixture
def vae() -> WanVAE:
    return WanVAE.from_checkpoint(VAE_WEIGHTS, "cpu")


def test_vae_constants(vae):
    config = json.loads((GOLDEN / "vae" / "config.json").read_text())
    assert vae._mean.flatten().tolist() == pytest.approx(config["latents_mean"])
    assert vae._std.flatten().tolist() == pytest.approx(config["latents_std"])
    assert vae.model.config.base_dim == config["config"]["dim"]


def test_encode(vae, io):
    latent = vae.encode(io["pixels"])
    assert latent.shape == (1, 16, 3, 8, 6)
    assert (latent - io["latent_normalised"]).abs().max() <= ENCODE


def test_decode_one_shot(io, one_shot):
    assert one_shot.shape == (1, 3, 33, 64, 48) and one_shot.abs().max() <= 1
    assert (one_shot - io["decoded"].float()).abs().max() <= DECODE


@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 2, 6)])
def test_streaming_is_exactly_one_shot(vae, io, one_shot, lengths):
    frames = []
    for latents in io["latent_in"].split(lengths, 2):
        frames.append(vae.decode(latents))
        vae.encode(io["pixels"][:, :, :1])  # has a cache of its own
    assert [f.shape[2] for f in frames] == [4 * n - 3 * (i == 0) for i, n in enumerate(lengths)]
    assert torch.equal(torch.cat(frames, 2), one_shot)


def test_begin_forgets(vae, io, one_shot):
    start = io["latent_in"][:, :, :3]
    vae.decode(io["latent_in"][:, :, 4:6])
    assert vae.decode(start).shape[2] == 12, "without begin it goes on"
    vae.begin()
    assert torch.equal(vae.decode(start), one_shot[:, :, :9])


def test_decoder_in_half_precision(io, one_shot):
    vae = WanVAE.from_checkpoint(VAE_WEIGHTS, "cpu", decode_dtype=torch.float16)
    assert vae.model.encoder.conv_in.weight.dtype == torch.float32 and vae.model.decoder.conv_in.weight.dtype == torch.float16
    frames = vae.decode(io["latent_in"][:, :, :2])
    assert frames.dtype == torch.float32
    assert 0 < (frames - one_shot[:, :, :5]).abs().max() <= HALF


@pytest.mark.parametrize("layout", ["pth", "folder"])
def test_vae_layouts(tmp_path, io, layout):
    if layout == "pth":
        path = saved(tmp_path / "Wan2.1_VAE.pth", load_file(VAE_WEIGHTS))
    else:
        path = tmp_path / "vae"
        WanVAE.from_checkpoint(VAE_WEIGHTS, "cpu").model.save_pretrained(path)
        assert {file.name for file in path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert (WanVAE.from_checkpoint(path, "cpu").encode(io["pixels"]) - io["latent_normalised"]).abs().max() <= ENCODE


@pytest.mark.parametrize("shape", [(1, 3, 8, 16, 16), (1, 3, 5, 16, 12), (1, 3, 1, 20, 16)])
def test_videos_that_would_be_cut(vae, shape):
    with pytest.raises(ValueError, match=re.escape(f"{shape[2]} frames of {list(shape[3:])} pixels: the VAE takes 1 + 4n frames")):
        vae.encode(torch.zeros(shape))


def test_vae_keys():
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in AutoencoderKLWan(base_dim=4).state_dict().items()}
    given = load_file(VAE_WEIGHTS)
    assert {vae_keys(key): tensor.shape for key, tensor in given.items()} == wanted and len(given) == len(wanted) == 194
    assert all(vae_keys(name) == name for name in wanted), "keys of the library stay"
    assert vae_keys("conv2.bias") == "post_quant_conv.bias"
    assert vae_keys("decoder.upsamples.7.time_conv.weight") == "decoder.up_blocks.1.upsamplers.0.time_conv.weight"
    assert vae_keys("decoder.upsamples.14.residual.6.bias") == "decoder.up_blocks.3.resnets.2.conv2.bias"
    assert vae_keys("encoder.downsamples.6.shortcut.weight") == "encoder.down_blocks.6.conv_shortcut.weight"
    assert vae_keys("decoder.upsamples.15.bias") == "decoder.upsamples.15.bias", "unknown keys stay"


# --- text


@pytest.fixture(scope="module")
def text() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "text" / "tiny_umt5.safetensors")


@pytest.fixture(scope="module")
def text_weights(text, tmp_path_factory) -> Path:
    weights = {key.removeprefix("w."): tensor for key, tensor in text.items() if key.startswith("w.")}
    return saved(tmp_path_factory.mktemp("text") / "models_t5.pth", weights)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    """Words w2 to w63 have those ids; 0 pads, 1 ends a prompt."""
    vocabulary = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, 64)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w63"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])  # pyright: ignore
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>").save_pretrained(path)
    return path


@pytest.fixture
def encoder(text_weights, tokenizer) -> TextEncoder:
    return TextEncoder.from_checkpoint(text_weights, tokenizer, "cpu", torch.float32)


def test_text(encoder, text):
    hidden = encoder.encode_ids(text["ids"], text["mask"])
    assert (hidden - text["hidden"])[:, :8].abs().max() <= TEXT
    sizes = json.loads((GOLDEN / "text" / "config.json").read_text())
    config = encoder.model.config
    mine = (config.vocab_size, config.d_model, config.d_kv * config.num_heads, config.d_ff, config.num_heads, config.num_layers)
    assert mine == tuple(sizes[key] for key in ("vocab_size", "dim", "dim_attn", "dim_ffn", "num_heads", "encoder_layers"))
    assert config.relative_attention_num_buckets == sizes["num_buckets"]
    assert encoder.model.shared.weight is encoder.model.encoder.embed_tokens.weight, "2 GB that are needed once"


def test_prompt_to_rows(encoder):
    """Padded to 512 and cut to its own tokens: the same as its tokens alone."""
    rows = encoder.encode(" w5\n w7 &#119;9 ")
    ids = torch.tensor([[5, 7, 9, 1]])
    assert rows.shape == (4, 32)
    assert (rows - encoder.encode_ids(ids, torch.ones_like(ids))[0]).abs().max() <= TEXT
    assert encoder.encode("").shape == (1, 32)
    assert encoder.encode("w3 " * 600).shape == (512, 32)


def test_clean():
    assert clean("  a&amp;lt;b\n\t&nbsp; cafÃ© \u201cx\u201d ") == 'a<b café "x"'


def test_free(encoder):
    with encoder as entered:
        entered.encode("w5")
    assert all(parameter.is_meta for parameter in encoder.model.parameters())
    with pytest.raises(ValueError, match="was freed; encode all prompts before `free`"):
        encoder.encode("w5")


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_text_folder(tmp_path, encoder, tokenizer, text, shard):
    encoder.model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard == "20KB")
    loaded = TextEncoder.from_checkpoint(tmp_path, tokenizer, "cpu", torch.float32)
    assert torch.equal(loaded.encode_ids(text["ids"], text["mask"]), encoder.encode_ids(text["ids"], text["mask"]))


def test_text_is_bfloat16_by_default(text_weights, tokenizer, text):
    loaded = TextEncoder.from_checkpoint(text_weights, tokenizer, "cpu")
    assert loaded.model.dtype == torch.bfloat16 and loaded.encode("w5").dtype == torch.float32


def test_tokenizers_that_are_missing(tmp_path, text_weights):
    with pytest.raises(FileNotFoundError, match=r"no folder at .*/umt5-xxl; expected the tokenizer .* google/umt5-xxl"):
        TextEncoder.from_checkpoint(text_weights, tmp_path / "umt5-xxl", "cpu")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path} holds no tokenizer")):
        TextEncoder.from_checkpoint(text_weights, tmp_path, "cpu")


def test_umt5_keys(encoder, text):
    renamed = {umt5_keys(key.removeprefix("w.")): tensor for key, tensor in text.items() if key.startswith("w.")}
    state = encoder.model.state_dict()
    assert renamed.keys() == state.keys() - {"encoder.embed_tokens.weight"}
    assert all(torch.equal(renamed[name], state[name]) for name in renamed)
    assert all(umt5_keys(name) == name for name in state), "keys of the library stay"
    assert umt5_keys("blocks.11.ffn.gate.0.weight") == "encoder.block.11.layer.1.DenseReluDense.wi_0.weight"


# --- image


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


# --- what all three refuse


@pytest.fixture(params=["vae", "text", "clip"])
def kind(request, text, tokenizer):
    """Good tensors, how they are loaded, and a key that says nothing of sizes."""
    if request.param == "vae":
        return load_file(VAE_WEIGHTS), lambda path: WanVAE.from_checkpoint(path, "cpu"), "decoder.middle.1.proj.bias"
    if request.param == "text":
        weights = {key.removeprefix("w."): tensor for key, tensor in text.items() if key.startswith("w.")}
        return weights, lambda path: TextEncoder.from_checkpoint(path, tokenizer, "cpu"), "norm.weight"
    return clip_file(), lambda path: ImageEncoder.from_checkpoint(path, "cpu"), "visual.post_norm.bias"


def test_strict(tmp_path, kind):
    tensors, load, key = kind
    wrong = {name: tensor for name, tensor in tensors.items() if name != key}
    for problem, given in (("1 missing", wrong), ("1 misshaped", tensors | {key: torch.zeros(99)})):
        path = saved(tmp_path / "file.safetensors", given)
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} does not fit .*{problem}"):
            load(path)
    path = saved(tmp_path / "file.pth", tensors | {f"visual.odd{i}": torch.zeros(1) for i in range(9)})
    with pytest.raises(ValueError, match="9 unexpected") as caught:
        load(path)
    listed = str(caught.value)
    assert "visual.odd7, ..." in listed and "visual.odd8" not in listed


def test_nothing_that_fits(tmp_path, kind):
    """Sizes then are the published ones, and all of the published network is missing."""
    _, load, _ = kind
    with pytest.raises(ValueError, match=r"does not fit .*: (194|219|387|388|517) missing"):
        load(saved(tmp_path / "other.safetensors", {"log_scale": torch.zeros(1), "visual.head": torch.zeros(1)}))


def test_missing_files(tmp_path, kind):
    with pytest.raises(FileNotFoundError, match=r"nothing at .*/none.pth; expected (Wan2.1_VAE.pth|models_t5_umt5-xxl-enc-bf16.pth|models_clip_open-clip)"):
        kind[1](tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        kind[1](tmp_path)


def test_damaged_files(tmp_path, kind):
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(b"nothing of the kind")
        with pytest.raises(ValueError, match="damaged"):
            kind[1](path)


@pytest.mark.parametrize("missing", ["diffusers", "transformers", "ftfy"])
def test_without_the_extra(tmp_path, monkeypatch, missing, text_weights, tokenizer):
    monkeypatch.setitem(sys.modules, missing, None)
    calls = {
        "diffusers": [lambda: WanVAE.from_checkpoint(VAE_WEIGHTS, "cpu")],
        "transformers": [
            lambda: TextEncoder.from_checkpoint(text_weights, tokenizer, "cpu"),
            lambda: ImageEncoder.from_checkpoint(saved(tmp_path / "clip.pth", clip_file()), "cpu"),
        ],
        "ftfy": [lambda: clean("a")],
    }
    for call in calls[missing]:
        with pytest.raises(ImportError, match=rf"\[wan\] extra .*{missing}.*pip install -e '\.\[wan\]'"):
            call()
