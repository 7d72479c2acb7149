"""Metrics of two images of one view. Every metric gives one value per image pair and averages over what it has seen."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

LPIPS_WEIGHTS = Path(__file__).parent / "weights" / "lpips_alex.safetensors"


class FrameMetric(Metric, ABC):
    """Images in [0, 1], n 3 y x. `version` changes whenever a value would."""

    name: str
    version: str
    higher_is_better: bool
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def score(self, a: Float[Tensor, "n 3 y x"], b: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n"]:
        """One value per image pair."""

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

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        values = peak_signal_noise_ratio(a, b, data_range=1.0, reduction="none", dim=(1, 2, 3))
        return values.clamp(max=100.0).reshape(len(a))


class SSIM(FrameMetric):
    """Structural similarity with the Gaussian window of Wang et al. 2004 (11 pixels, sigma 1.5), averaged where the whole
    window lies in the image, as scikit-image does (torchmetrics' own mean includes the padded border: 0.01 lower)."""

    name, version, higher_is_better = "ssim", "1", True

    def score(self, a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[-2:]) < 11:
            raise ValueError(f"ssim needs images of at least 11 pixels, got {tuple(a.shape[-2:])}")
        _, full = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", return_full_image=True)
        return full[..., 5:-5, 5:-5].mean((1, 2, 3))


class LPIPS(FrameMetric):
    """Learned perceptual distance, AlexNet, version 0.1 (Zhang et al. 2018), without torchvision or a download.

    Raises FileNotFoundError when the weights file of the checkout is missing.
    """

    name, version, higher_is_better = "lpips", "alex-0.1-fp16", False

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

    @torch.no_grad()
    def score(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance(a, b)

    def distance(self, a: Float[Tensor, "n 3 y x"], b: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n"]:
        """The score, with gradients: a term of a training loss."""
        if min(a.shape[-2:]) < 32:
            raise ValueError(f"lpips needs images of at least 32 pixels, got {tuple(a.shape[-2:])}")
        x, y = ((2 * image - 1 - self.shift) / self.scale for image in (a, b))
        total = a.new_zeros(len(a))
        for i, conv in enumerate(self.convolutions):
            if i in (1, 2):
                x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
            x, y = F.relu(conv(x)), F.relu(conv(y))
            u, v = (t / (t.square().sum(1, keepdim=True).sqrt() + 1e-10) for t in (x, y))
            total += torch.einsum("ncyx,c->nyx", (u - v).square(), getattr(self, f"head{i}")).mean((1, 2))
        return total
