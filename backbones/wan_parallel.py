"""The Wan transformer over several ranks: tensor parallelism by PyTorch's DTensor, heads and hidden channels shared out.

Each rank holds a share of every large matrix, the K/V of its heads, and the whole residual stream; a block adds up partial results three times
(after self-attention, cross-attention and feed-forward), and its qk-norms, which run over the full width, their sums of squares twice.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.checkpoints import Parts
from backbones.wan_causal import CELL, LATENT_CHANNELS, STRIDE, Codec
from backbones.wan_network import WanNetwork
from harness.system.ranks import ALONE, Ranks

Network = TypeVar("Network", bound=WanNetwork)


def built(make: Callable[[Ranks], Network], ranks: Ranks, device: torch.device) -> tuple[Network, Parts]:
    """A network on the meta device, and what it holds of a checkpoint's tensors. make: builds it for so many ranks.

    Raises ValueError where the ranks do not divide a width that they share.
    """
    with torch.device("meta"):
        whole = make(ALONE)
        if ranks.size == 1:
            return whole, Parts(whole)
        network = make(ranks)
    return network, RankParts(whole, network, _styled(network, ranks, device), ranks)


def _styled(network: WanNetwork, ranks: Ranks, device: torch.device) -> dict[str, str]:
    """Share out its linear layers; returns which of them, and how."""
    from torch.distributed.device_mesh import init_device_mesh  # here: 2 s that one rank need not wait for
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    linears = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    how = {name: kind for pattern, kind in network.SPLIT.items() for name in linears if fnmatch(name, pattern)}
    for name, kind in how.items():
        width = linears[name].in_features if kind == "rows" else linears[name].out_features
        if width % ranks.size:
            raise ValueError(f"backbone.parallel={ranks.size} does not divide the {width} channels of {name}; use a number that does")
    styles = {"columns": ColwiseParallel(), "rows": RowwiseParallel(), "gathered": ColwiseParallel(output_layouts=Replicate())}
    for style in styles.values():
        style.src_data_rank = None  # every rank reads its own part of the checkpoint
    parallelize_module(network, init_device_mesh(device.type, (ranks.size,)), {name: styles[kind] for name, kind in how.items()})
    return how


class RankParts(Parts):
    """A rank's part of each tensor: a run of its rows or columns. Heads that the model does not have are zero."""

    def __init__(self, whole: nn.Module, network: nn.Module, how: Mapping[str, str], ranks: Ranks) -> None:
        super().__init__(whole)
        self._ranks, self._shared = ranks, network.state_dict(keep_vars=True)
        self._dims = {name: dim for name in self.whole if (dim := _dim(name, how)) is not None}

    def index(self, name: str) -> tuple[slice, ...]:
        if name not in self._dims:
            return ()
        dim, width = self._dims[name], self._width(name)
        start, most = self._ranks.rank * width, self.whole[name].shape[dim]
        return (*[slice(None)] * dim, slice(min(start, most), min(start + width, most)))

    def numel(self, name: str) -> int:
        shape = list(self.whole[name].shape)
        if name in self._dims:
            shape[self._dims[name]] = self._width(name)
        return torch.Size(shape).numel()

    def held(self, name: str, part: Tensor) -> Tensor:
        if name in self._dims:
            dim = self._dims[name]
            missing = self._width(name) - part.shape[dim]
            part = F.pad(part, (0, 0) * (part.dim() - 1 - dim) + (0, missing)).contiguous()
        return self._as(self._shared[name], part)

    def _width(self, name: str) -> int:
        """Of a rank's run."""
        return self._local(self._shared[name]).shape[self._dims[name]]

    @staticmethod
    def _local(x: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return x.to_local() if isinstance(x, DTensor) else x

    @staticmethod
    def _as(like: Tensor, part: Tensor) -> Tensor:
        """A DTensor where the module has one."""
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(part, like.device_mesh, like.placements, run_check=False) if isinstance(like, DTensor) else part


def _dim(name: str, how: Mapping[str, str]) -> int | None:
    """Along which dimension a parameter is shared out."""
    module, _, leaf = name.rpartition(".")
    if module.endswith((".norm_q", ".norm_k")):
        return 0
    if how.get(module) == "rows":
        return 1 if leaf == "weight" else None
    return 0 if module in how else None


class SilentCodec:
    """In the place of rank 0's codec on the other ranks: zeros of the same shapes. What is encoded they learn from rank 0 (`WanBackbone.encode`), and what is
    decoded nobody looks at there."""

    def begin(self) -> None:
        self._begun = False

    def state(self) -> list:
        return [self._begun]

    def restore(self, state: list) -> None:
        self._begun = state[0]

    def encode(self, pixels: Float[Tensor, "1 3 p y x"]) -> Float[Tensor, "1 16 f h w"]:
        frames, rows, columns = pixels.shape[2:]
        return pixels.new_zeros(1, LATENT_CHANNELS, (frames - 1) // STRIDE + 1, rows // CELL, columns // CELL)

    def decode(self, latents: Float[Tensor, "1 16 f h w"]) -> Float[Tensor, "1 3 p y x"]:
        frames = STRIDE * latents.shape[2] - (0 if self._begun else STRIDE - 1)
        self._begun = True
        return latents.new_zeros(1, 3, frames, latents.shape[3] * CELL, latents.shape[4] * CELL)


def codec_of(load: Callable[[], Codec], ranks: Ranks) -> Codec:
    """Loaded on rank 0 alone."""
    return load() if ranks.rank == 0 else SilentCodec()


def shared_tokens(make: Callable[[], Float[Tensor, "*b n c"]], ranks: Ranks, device: torch.device) -> Float[Tensor, "*b n c"]:
    """Tokens of a prompt or an image that rank 0 makes, on all ranks."""
    if ranks.size == 1:
        return make()
    made = make().float().to(device) if ranks.rank == 0 else torch.empty(0)
    sizes = ranks.first(torch.tensor([*([0] * (4 - made.dim())), *made.shape]) if ranks.rank == 0 else torch.zeros(4, dtype=torch.int64))
    shape = [n for n in sizes.tolist() if n]
    return ranks.first(made if ranks.rank == 0 else torch.empty(shape, device=device))


def shared_images(load: Callable[[], Callable[[Tensor], Tensor]], ranks: Ranks, device: torch.device) -> Callable[[Tensor], Tensor]:
    """An image encoder that rank 0 alone has."""
    encode = load() if ranks.rank == 0 else None
    return lambda image: shared_tokens(lambda: encode(image), ranks, device)  # pyright: ignore[reportOptionalCall]
