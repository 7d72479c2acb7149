"""UMT5: parity, key names, layouts. And every way in which a file of any of Wan's encoders can be wrong."""

import re
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from backbones.wan_encoders import ImageEncoder, TextEncoder, clean, umt5_keys
from backbones.wan_vae import WanVAE
from tests.replay import FOLDER, config, golden
from tests.test_wan_clip import clip_file, saved

VAE_WEIGHTS = FOLDER / "vae" / "weights_wan_keys.safetensors"
TEXT = 1e-5  # against the reference in float32


@pytest.fixture(scope="module")
def text() -> dict[str, torch.Tensor]:
    return golden("text/tiny_umt5")


@pytest.fixture(scope="module")
def weights(text) -> dict[str, torch.Tensor]:
    return {key.removeprefix("w."): tensor for key, tensor in text.items() if key.startswith("w.")}


@pytest.fixture(scope="module")
def text_weights(weights, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("text") / "models_t5.pth", weights)


def save_tokenizer(path: Path) -> Path:
    """Words w2 to w63 have those ids; 0 pads, 1 ends a prompt."""
    vocabulary = {"<pad>": 0, "</s>": 1} | {f"w{i}": i for i in range(2, 64)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="w63"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    made.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])  # pyright: ignore
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def encoder(text_weights, tokenizer) -> TextEncoder:
    return TextEncoder.from_checkpoint(text_weights, tokenizer, "cpu", torch.float32)


def test_text(encoder, text):
    hidden = encoder.encode_ids(text["ids"], text["mask"])
    assert (hidden - text["hidden"])[:, :8].abs().max() <= TEXT
    mine, recorded = encoder.model.config, config("text")
    sizes = (mine.vocab_size, mine.d_model, mine.d_kv * mine.num_heads, mine.d_ff, mine.num_heads, mine.num_layers)
    assert sizes == tuple(recorded[key] for key in ("vocab_size", "dim", "dim_attn", "dim_ffn", "num_heads", "encoder_layers"))
    assert mine.relative_attention_num_buckets == recorded["num_buckets"]
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
    assert clean("<&amp;lt;") == "<<", "ftfy leaves text with a < alone"


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


def test_umt5_keys(encoder, weights):
    renamed = {umt5_keys(key): tensor for key, tensor in weights.items()}
    state = encoder.model.state_dict()
    assert renamed.keys() == state.keys() - {"encoder.embed_tokens.weight"}
    assert all(torch.equal(renamed[name], state[name]) for name in renamed)
    assert all(umt5_keys(name) == name for name in state), "keys of the library stay"
    assert umt5_keys("blocks.11.ffn.gate.0.weight") == "encoder.block.11.layer.1.DenseReluDense.wi_0.weight"


# --- what all three refuse


@pytest.fixture(params=["vae", "text", "clip"])
def kind(request, weights, tokenizer):
    """Good tensors, how they are loaded, and a key that says nothing of sizes."""
    return {
        "vae": (golden("vae/weights_wan_keys"), lambda path: WanVAE.from_checkpoint(path, "cpu"), "decoder.middle.1.proj.bias"),
        "text": (weights, lambda path: TextEncoder.from_checkpoint(path, tokenizer, "cpu"), "norm.weight"),
        "clip": (clip_file(), lambda path: ImageEncoder.from_checkpoint(path, "cpu"), "visual.post_norm.bias"),
    }[request.param]


def test_strict(tmp_path, kind):
    tensors, load, key = kind
    fewer = {name: tensor for name, tensor in tensors.items() if name != key}
    for problem, given in (("1 missing", fewer), ("1 misshaped", tensors | {key: torch.zeros(99)})):
        path = saved(tmp_path / "file.safetensors", given)
        with pytest.raises(ValueError, match=rf"{re.escape(str(path))} does not fit .*{problem}"):
            load(path)
    path = saved(tmp_path / "file.pth", tensors | {f"visual.odd{i}": torch.zeros(1) for i in range(9)})
    with pytest.raises(ValueError, match="9 unexpected") as caught:
        load(path)
    listed = str(caught.value)
    assert "visual.odd7, ..." in listed and "visual.odd8" not in listed


def test_files_of_something_else(tmp_path, kind):
    """Sizes then are the published ones, and every tensor of the published network is missing (UMT5's embedding by both its names)."""
    tensors, load, key = kind
    path = saved(tmp_path / "other.safetensors", {"odd": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"does not fit (AutoencoderKLWan: 194|UMT5EncoderModel: 243|CLIPVisionModel: 519) missing"):
        load(path)


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
