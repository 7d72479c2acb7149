"""FID between first visits and revisits of a run: two sets of frames, not pairs, so it is computed once, at the end."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

SOURCE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class Inception:
    """Pool features of the Inception network that published FIDs use (torch-fidelity's port; extra `fid`).

    weights: its file, which must be downloaded once. Without it `missing` says so and FID is left out of the results.
    """

    name, version, width = "fid", "inception-2015-12-05", 2048

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights
        self._network: nn.Module | None = None

    @property
    def missing(self) -> str:
        """Why FID cannot be computed, or an empty string."""
        if not self.weights:
            return f"features.weights is not set; download {SOURCE}"
        if not Path(self.weights).is_file():
            return f"no file at features.weights={self.weights}; download {SOURCE}"
        try:
            import torch_fidelity  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            return "torch-fidelity is not installed; pip install -e '.[fid]'"
        return ""

    def extract(self, frames: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n 2048"]:
        """Features of frames in [0, 1], on the CPU; they are scaled to 299x299 as the original network does."""
        if self._network is None:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # pyright: ignore[reportMissingImports]

            self._network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], self.weights).eval()
        with torch.no_grad():
            return self._network((frames.clamp(0, 1) * 255).round().byte())[0]


class _Computed(nn.Module):
    """Stands where the metric expects a network: its images are features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet(first: Float[Tensor, "n d"], again: Float[Tensor, "m d"]) -> float:
    """Frechet distance of two sets of features. Raises ValueError below 2 each; far fewer than d of them bias it upwards."""
    if min(len(first), len(again)) < 2:
        raise ValueError(f"FID of {len(first)} and {len(again)} frames: at least 2 of each are needed, and thousands to mean something")
    metric = FrechetInceptionDistance(feature=_Computed(first.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(first.double(), real=True)
    metric.update(again.double(), real=False)
    return float(metric.compute())
