"""Self-Forcing's Wan 2.1 1.3B (arXiv 2506.08009): the causal Wan transformer with a prompt and no control, for measurements
beside its descendants. It takes no camera path, so a revisit means nothing to it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from backbones.checkpoints import files_at, load_into
from backbones.codecs import PreviewCodec
from backbones.matrix_game2 import schedule
from backbones.sources import SELF_FORCING, require
from backbones.wan_causal import Codec, Precision, Schedule, Sizes, WanBackbone, checked, fill_randomly, precision, refuse_too_large
from backbones.wan_network import Control, WanConfig, WanNetwork
from backbones.wan_parallel import built, codec_of, shared_tokens
from harness.datatypes import Chunk
from harness.settings.ranges import Count, Device, Size
from harness.system.devices import chosen_device
from harness.system.ranks import joined
from harness.trajectory import Trajectory

TEXT_LENGTH = 512
STEPS = (1000, 750, 500, 250)
PUBLISHED = WanConfig(1536, 12, 30, 8960, 4096, in_dim=16)
NETWORK = "checkpoints/self_forcing_dmd.pt"
FOLDER = "checkpoints/self_forcing"  # where weights=null looks
VAE, TEXT, TOKENIZER = "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl"


class SelfForcingBackbone(WanBackbone):
    """prompts: a prompt to text tokens before their padding with zeros."""

    def __init__(
        self, network: WanNetwork, codec: Codec, prompts: Callable[[str], Float[Tensor, "n c"]], schedule: Schedule, size: tuple[int, int], device: torch.device
    ) -> None:
        super().__init__(network, codec, schedule, size, device)
        self.prompts = prompts

    def context(self, trajectory: Trajectory) -> Float[Tensor, "1 n c"]:
        tokens = self.prompts(trajectory.prompt)[:TEXT_LENGTH]
        return F.pad(tokens, (0, 0, 0, TEXT_LENGTH - len(tokens)))[None]

    def control(self, trajectory: Trajectory, chunk: Chunk) -> tuple[()]:
        return ()

    def controls(self, inputs: Sequence[Tensor]) -> list[Control]:
        return [lambda x: x] * self.geometry.layers


def load(
    weights: str | None,
    size: Size = (480, 832),
    device: Device = "auto",
    dtype: Precision = "bfloat16",
    sizes: Sizes | None = None,
    parallel: Count = 1,
) -> SelfForcingBackbone:
    """The backbone from a checkpoint folder (see `checkpoints.SELF_FORCING`), or at any size with weights=random.

    sizes: other sizes of the network than the published ones (fields of `WanConfig`), for measurements. parallel: processes that share a rollout.
    Raises FileNotFoundError with the download commands, or ValueError for files of another model.
    """
    where, wanted = chosen_device(device), precision(dtype)
    config = replace(PUBLISHED, dtype=wanted, stream=wanted, **checked(sizes, PUBLISHED))
    ranks = joined(parallel)
    network, parts = built(partial(WanNetwork, config), ranks, where)
    refuse_too_large(parts, config.dtype_of, where)
    if weights == "random":
        fill_randomly(network, where, parts)
        tokens = torch.randn(64, config.context_dim, generator=torch.Generator().manual_seed(0))
        codec, prompts = codec_of(PreviewCodec, ranks), lambda prompt: tokens
    else:
        from backbones.wan_encoders import TextEncoder
        from backbones.wan_vae import WanVAE

        folder = Path(weights or FOLDER)
        require(folder, (NETWORK, VAE, TEXT, TOKENIZER), SELF_FORCING)
        load_into(network, folder / NETWORK, device=where, dtype_of=config.dtype_of, prefix="model.", parts=parts)
        codec = codec_of(lambda: WanVAE.from_checkpoint(folder / VAE, where), ranks)

        def encoded(prompt: str) -> Tensor:  # 11 GB: there for a new prompt only
            with TextEncoder.from_checkpoint(folder / TEXT, folder / TOKENIZER, where) as encoder:
                return encoder.encode(prompt)

        prompts = cache(lambda prompt: shared_tokens(partial(encoded, prompt), ranks, where))

    return SelfForcingBackbone(network, codec, prompts, schedule(STEPS), (size[0], size[1]), where)


weight_files = files_at(FOLDER)
