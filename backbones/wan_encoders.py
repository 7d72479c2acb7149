"""The frozen encoders that condition a Wan network: UMT5 for a prompt, CLIP's ViT-H/14 for a first image.

Both are classes of `transformers`, filled from the files that Wan's models are published with. Sizes come from the shapes
of the tensors; what shapes cannot tell (head width of CLIP, distances of UMT5) is that of the published networks.
"""

import html
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from backbones.checkpoints import Shape, compare, files_of, load_into, shapes_of, tensors_of

if TYPE_CHECKING:
    from transformers import CLIPVisionModel, PreTrainedTokenizerBase, UMT5EncoderModel

TEXT_LENGTH = 512
CLIP_HEAD_WIDTH = 80
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
UMT5_RULES = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.norm1\.", r"encoder.block.\1.layer.0.layer_norm."),
    (r"^blocks\.(\d+)\.attn\.", r"encoder.block.\1.layer.0.SelfAttention."),
    (r"^blocks\.(\d+)\.pos_embedding\.embedding\.", r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias."),
    (r"^blocks\.(\d+)\.norm2\.", r"encoder.block.\1.layer.1.layer_norm."),
    (r"^blocks\.(\d+)\.ffn\.gate\.0\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_0."),
    (r"^blocks\.(\d+)\.ffn\.fc1\.", r"encoder.block.\1.layer.1.DenseReluDense.wi_1."),
    (r"^blocks\.(\d+)\.ffn\.fc2\.", r"encoder.block.\1.layer.1.DenseReluDense.wo."),
)
CLIP_RULES = (
    (r"^visual\.cls_embedding$", "embeddings.class_embedding"),
    (r"^visual\.pos_embedding$", "embeddings.position_embedding.weight"),
    (r"^visual\.patch_embedding\.", "embeddings.patch_embedding."),
    (r"^visual\.pre_norm\.", "pre_layrnorm."),
    (r"^visual\.post_norm\.", "post_layernorm."),
    (r"^visual\.transformer\.(\d+)\.attn\.to_qkv\.", r"encoder.layers.\1.self_attn.qkv_proj."),
    (r"^visual\.transformer\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"^visual\.transformer\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"^visual\.transformer\.(\d+)\.mlp\.0\.", r"encoder.layers.\1.mlp.fc1."),
    (r"^visual\.transformer\.(\d+)\.mlp\.2\.", r"encoder.layers.\1.mlp.fc2."),
)


@contextmanager
def wan_extra() -> Iterator[None]:
    """Around imports of the optional libraries: an ImportError then names the extra that installs them."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"Wan's codec and encoders need the [wan] extra ({error}): pip install -e '.[wan]'") from error


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """The name after every rule (pattern, replacement); one that no rule knows stays, and a strict load reports it."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def umt5_keys(name: str) -> str:
    """A key of `models_t5_umt5-xxl-enc-bf16.pth` in transformers' UMT5EncoderModel."""
    return renamed(name, UMT5_RULES)


def clip_keys(name: str) -> str:
    """A key of the visual tower in transformers' CLIPVisionModel; `qkv_proj` is then still to be split in three."""
    return renamed(name, CLIP_RULES)


def shapes_at(path: Path, expected: str) -> dict[str, Shape]:
    """Keys and shapes of a checkpoint. Raises FileNotFoundError, with what is expected there, or ValueError if damaged."""
    if not path.exists():
        raise FileNotFoundError(f"nothing at {path}; expected {expected}")
    return {key: shape for file in files_of(path) for key, shape in shapes_of(file).items()}


def size(shapes: Mapping[str, Shape], name: str, axis: int, published: int) -> int:
    """A size that a tensor's shape tells; without that tensor the published one, so that the strict load lists what is missing."""
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else published


def clean(prompt: str) -> str:
    """The prompt as Wan's networks were trained on: text repaired, HTML unescaped (twice: `&amp;lt;`), one space between words."""
    with wan_extra():
        import ftfy
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class TextEncoder:
    """UMT5-xxl, encoder only. As a context manager it gives its memory (11 GB in bfloat16) back at the end."""

    def __init__(self, model: "UMT5EncoderModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @classmethod
    def from_checkpoint(cls, path: Path, tokenizer_path: Path, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> "TextEncoder":
        """path: the original file (or its keys in a .safetensors), or a folder as `transformers` saves it.

        Raises ImportError without the extra, FileNotFoundError, and ValueError for files that are damaged or do not fit.
        """
        shapes = {umt5_keys(key): shape for key, shape in shapes_at(path, "models_t5_umt5-xxl-enc-bf16.pth or a transformers folder").items()}
        if not tokenizer_path.is_dir():
            raise FileNotFoundError(f"no folder at {tokenizer_path}; expected the tokenizer that comes with the text encoder, google/umt5-xxl")
        with wan_extra():
            from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_path), local_files_only=True)
        except (OSError, ValueError) as error:
            raise ValueError(f"{tokenizer_path} holds no tokenizer ({error}); download google/umt5-xxl again") from error
        attention = "encoder.block.0.layer.0.SelfAttention"
        heads = size(shapes, f"{attention}.relative_attention_bias.weight", 1, 64)
        config = UMT5Config(
            vocab_size=size(shapes, "shared.weight", 0, 256384),
            d_model=size(shapes, "shared.weight", 1, 4096),
            d_kv=size(shapes, f"{attention}.q.weight", 0, 4096) // heads,
            d_ff=size(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0, 10240),
            num_layers=sum(name.endswith("SelfAttention.q.weight") for name in shapes) or 24,
            num_heads=heads,
            relative_attention_num_buckets=size(shapes, f"{attention}.relative_attention_bias.weight", 0, 32),
        )
        with torch.device("meta"):
            model = UMT5EncoderModel(config)
        load_into(model, path, device=torch.device(device), dtype_of=lambda name: dtype, rename=umt5_keys)
        return cls(model, tokenizer)

    def __enter__(self) -> "TextEncoder":
        return self

    def __exit__(self, *error: object) -> None:
        self.free()

    def free(self) -> None:
        """Release the weights; the encoder cannot be used afterwards."""
        device = self.model.device
        self.model.to("meta")  # pyright: ignore[reportArgumentType]
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def encode(self, prompt: str) -> Float[Tensor, "n d"]:
        """Hidden states in float32 of the prompt's own tokens (at most 512, the end token among them), without padding."""
        tokens = self.tokenizer(clean(prompt), max_length=TEXT_LENGTH, padding="max_length", truncation=True, return_tensors="pt")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return self.encode_ids(ids, mask)[0, mask[0].bool()]  # pyright: ignore

    def encode_ids(self, ids: Int[Tensor, "1 n"], mask: Int[Tensor, "1 n"]) -> Float[Tensor, "1 n d"]:
        """Hidden states in float32. mask: 1 for tokens, 0 for padding, whose rows mean nothing. Raises ValueError after `free`."""
        device = self.model.device
        if device.type == "meta":
            raise ValueError("the text encoder was freed; encode all prompts before `free`, or load it again")
        return self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.float()


class ImageEncoder:
    """The visual tower of open-clip's XLM-RoBERTa ViT-H/14, without its last layer (Matrix-Game-2.0, Wan I2V)."""

    def __init__(self, model: "CLIPVisionModel") -> None:
        self.model = model.eval()
        self.side = model.config.image_size
        self._mean, self._std = (torch.tensor(values, device=model.device).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))

    @classmethod
    def from_checkpoint(cls, path: Path, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "ImageEncoder":
        """path: `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`, or its `visual.` keys in a .safetensors.

        The text tower and the projection of the file (`visual.head`) are not read. Raises as `TextEncoder` does.
        """
        expected = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
        shapes = {key: shape for key, shape in shapes_at(path, expected).items() if key.startswith("visual.") and key != "visual.head"}
        with wan_extra():
            from transformers import CLIPVisionConfig, CLIPVisionModel
        width, patch = (size(shapes, "visual.patch_embedding.weight", axis, default) for axis, default in ((0, 1280), (2, 14)))
        if width % CLIP_HEAD_WIDTH:
            raise ValueError(f"{path} is no ViT-H: its width {width} is no multiple of {CLIP_HEAD_WIDTH}; expected {expected}")
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=size(shapes, "visual.transformer.0.mlp.0.weight", 0, 5120),
            num_hidden_layers=sum(key.endswith("attn.to_qkv.weight") for key in shapes) or 32,
            num_attention_heads=width // CLIP_HEAD_WIDTH,
            image_size=patch * math.isqrt(size(shapes, "visual.pos_embedding", 1, 257) - 1),
            patch_size=patch,
            hidden_act="gelu",
        )
        with torch.device("meta"):
            model = CLIPVisionModel(config)
        tower = dict(model.named_children()).get("vision_model", model)  # transformers 4 has it as a module of the model
        parts = clip_parts({key: tensor for file in files_of(path) for key, tensor in tensors_of(file, dict.fromkeys(shapes_of(file), ())) if key in shapes})
        wanted = tower.state_dict()
        found = {name: tuple(part.shape) for name, part in parts.items()}
        compare(f"{path} does not fit CLIPVisionModel", found, wanted, {id(tensor): [name] for name, tensor in wanted.items()})
        tower.load_state_dict({name: part.to(device, dtype, copy=True) for name, part in parts.items()}, assign=True)
        positions = wanted["embeddings.position_embedding.weight"].shape[0]
        tower.get_submodule("embeddings").position_ids = torch.arange(positions, device=device)[None]  # in no state dict
        return cls(model.requires_grad_(False))

    def encode(self, image: Float[Tensor, "1 3 y x"]) -> Float[Tensor, "1 257 1280"]:
        """Tokens after 31 of 32 layers, in float32, of an image in [-1, 1]; it is squeezed into 224x224, whatever its aspect."""
        pixels = F.interpolate(image.to(self._mean), (self.side, self.side), mode="bicubic", align_corners=False)  # pyright: ignore
        pixels = ((pixels + 1) / 2 - self._mean) / self._std
        return self.model(pixels.to(self.model.dtype), output_hidden_states=True).hidden_states[-2].float()


def clip_parts(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the visual tower by transformers' names: q, k and v apart, embeddings without axes of length 1."""
    parts: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = clip_keys(key)
        if ".qkv_proj." in name:
            parts |= {name.replace("qkv_proj", f"{part}_proj"): piece for part, piece in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            parts[name] = tensor.squeeze() if name == "embeddings.class_embedding" else tensor.squeeze(0) if "position" in name else tensor
    return parts
