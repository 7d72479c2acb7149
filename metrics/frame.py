"""Metrics of two images of one view. Every metric gives one value per image pair and averages over what it has seen."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from metrics.column import Column

PIXELS = 2**17  # of the pairs that are compared together, which then fit into a core's cache: 32 pairs of 64x64. SSIM takes 1.4 ms a
# pair there and 3.5 ms where 128 are together; at 256x256 one pair at a time takes half of what two do
FEATURES = 2**26  # bytes of LPIPS features that are kept at a time; an image has about 42 bytes a pixel
LPIPS_WEIGHTS = Path(__file__).parent / "weights" / "lpips_alex.safetensors"


class FrameMetric(Metric, ABC):
    """Images in [0, 1], n 3 y x. `version` changes whenever a value would.

    heading, unit, decimals: how every view shows it (heading: the name in capitals unless given). rank, difference: see `Column`.
    """

    name: str
    version: str
    higher_is_better: bool
    heading: str = ""
    unit: str = ""
    decimals: int = 3
    rank: int = 3
    difference: bool = False
    least: int = 1  # pixels that an image's shorter side must have
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, a: Float[Tensor, "n 3 y x"], b: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n"]:
        """One value per image pair."""

    def columns(self) -> tuple[Column, Column]:
        """What it gives a run: first visit against revisit, with its floor, and revisit against the true view, with its ceiling."""
        heading, better = self.heading or self.name.upper(), 1 if self.higher_is_better else -1
        keys = {k: f"quality/{self.name}_{k}" for k in ("revisit", "reference", "floor", "ceiling")}
        shown = {"group": "quality", "decimals": self.decimals, "better": better, "unit": self.unit}
        return (
            Column(
                keys["revisit"], self.name, f"{heading} revisit", **shown,
                about="revisit against first visit of the same rollout", rank=self.rank, difference=self.difference, floor=keys["floor"],
            ),
            Column(
                keys["reference"], f"{self.name}_true", f"{heading} true view", **shown,
                about="revisit against the true view, where the world has one", rank=self.rank + (1 if self.rank == 1 else 3), ceiling=keys["ceiling"],
            ),
        )  # fmt: skip

    def compare(self, images: Float[Tensor, "m 3 y x"], a: Int[Tensor, "g n"], b: Int[Tensor, "g n"]) -> Float[Tensor, "g n"]:
        """`score` of images[a] against images[b], group by group. A metric that looks at images one by one before it compares them
        overrides this, and looks at each only once."""
        size = max(1, PIXELS // (images.shape[-2] * images.shape[-1]))
        blocks = [zip(x.split(size), y.split(size), strict=True) for x, y in zip(a, b, strict=True)]
        return torch.stack([torch.cat([self.score(images[i], images[j]) for i, j in block]) for block in blocks])

    def update(self, a: Float[Tensor, "n 3 y x"], b: Float[Tensor, "n 3 y x"]) -> None:
        if a.shape != b.shape:
            raise ValueError(f"{self.name}: images of {tuple(a.shape)} against {tuple(b.shape)}; resize one of them")
        self.total += self.score(a, b).sum()
        self.count += len(a)

    def compute(self) -> Tensor:
        return self.total / self.count


class PSNR(FrameMetric):
    """Peak signal-to-noise ratio in dB; identical 8-bit images would be infinite and count as 100 dB."""

    name, version, higher_is_better = "psnr", "1", True
    unit, decimals, rank, difference = "dB", 2, 1, True

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        values = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return values.clamp(max=100.0).reshape(len(a))


class SSIM(FrameMetric):
    """Structural similarity with the Gaussian window of Wang et al. 2004 (11 pixels, sigma 1.5), averaged where the whole
    window lies in the image, as scikit-image does (torchmetrics' own mean includes the padded border: 0.01 lower)."""

    least = 11
    name, version, higher_is_better = "ssim", "1", True
    rank = 5

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[-2:]) < self.least:
            raise ValueError(f"ssim needs images of at least {self.least} pixels, got {tuple(a.shape[-2:])}")
        _, full = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
        return full[..., 5:-5, 5:-5].mean((1, 2, 3))


class LPIPS(FrameMetric):
    """Learned perceptual distance, AlexNet, version 0.1 (Zhang et al. 2018), without torchvision or a download.

    Raises FileNotFoundError when the weights file of the checkout is missing.
    """

    least = 32
    name, version, higher_is_better = "lpips", "alex-0.1-fp16", False
    rank, difference = 2, True

    def __init__(self, weights: Path = LPIPS_WEIGHTS) -> None:
        super().__init__()
        if not Path(weights).is_file():
            raise FileNotFoundError(f"no LPIPS weights at {weights}; restore the file (git checkout) or make it with metrics/weights/convert.py")
        w = {k: v.float() for k, v in load_file(weights).items()}
        layers = ((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))  # kernel, stride, padding
        self.convolutions = nn.ModuleList()
        for i, (kernel, stride, padding) in enumerate(layers):
            conv = nn.Conv2d(w[f"conv{i}.weight"].shape[1], w[f"conv{i}.weight"].shape[0], kernel, stride, padding)
            conv.load_state_dict({"weight": w[f"conv{i}.weight"], "bias": w[f"conv{i}.bias"]})
            self.convolutions.append(conv.requires_grad_(False))
        for i in range(5):
            self.register_buffer(f"head{i}", w[f"head{i}"])
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        at = torch.arange(len(a))[None]
        return self.compare(torch.cat([a, b]), at, at + len(a))[0]

    def distance(self, a: Float[Tensor, "n 3 y x"], b: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n"]:
        """The score, with gradients: a term of a training loss."""
        at = torch.arange(len(a))
        return self._distances(self._features(torch.cat([a, b])), at, at + len(a))

    @torch.no_grad()
    def compare(self, images: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The network sees every image once, as long as the features of all fit into `FEATURES` bytes."""
        if min(images.shape[-2:]) < self.least:
            raise ValueError(f"lpips needs images of at least {self.least} pixels, got {tuple(images.shape[-2:])}")
        most = max(2, FEATURES // (42 * images.shape[-2] * images.shape[-1]))
        if len(images) <= most:
            return self._distances(self._features(images), a.flatten(), b.flatten()).view(a.shape)
        parts = []
        for i, j in zip(a.flatten().split(most // 2), b.flatten().split(most // 2), strict=True):
            seen, at = torch.cat([i, j]).unique(return_inverse=True)
            parts.append(self._distances(self._features(images[seen]), at[: len(i)], at[len(i) :]))
        return torch.cat(parts).view(a.shape)

    def _features(self, images: Tensor) -> list[Tensor]:
        """Of every layer, n c y x, each place a unit vector."""
        x, found = (2 * images - 1 - self.shift) / self.scale, []
        for i, conv in enumerate(self.convolutions):
            x = F.relu(conv(F.max_pool2d(x, 3, 2) if i in (1, 2) else x))
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return found

    def _distances(self, features: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
        total = features[0].new_zeros(len(a))
        for i, x in enumerate(features):
            total += torch.einsum("ncyx,c->nyx", (x[a] - x[b]).square(), getattr(self, f"head{i}")).mean((1, 2))
        return total
