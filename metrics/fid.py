"""FID between first visits and revisits of a run: two sets of frames, not pairs, so it is computed once, at the end."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from harness.outcome import Rollout
from harness.trajectory import Trajectory
from metrics.revisit import scored
from metrics.rollout import RolloutMetric

SOURCE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class FID(RolloutMetric):
    """Frechet distance of the pool features of the Inception network that published FIDs use (Heusel et al. 2017;
    torch-fidelity's port; extra `fid`).

    weights: its file, which must be downloaded once. Without it `missing` says so and FID is left out of the results.
    """

    name, version, higher_is_better = "fid", "inception-2015-12-05", False
    decimals = 1
    about = "first visits against revisits, as sets"

    def __init__(self, weights: str | None = None) -> None:
        self.weights = weights
        self._network: nn.Module | None = None

    @property
    def missing(self) -> str:
        if not self.weights:
            return f"metric.fid.weights is not set; download {SOURCE}"
        if not Path(self.weights).is_file():
            return f"no file at metric.fid.weights={self.weights}; download {SOURCE}"
        try:
            import torch_fidelity  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError:
            return "torch-fidelity is not installed; pip install -e '.[fid]'"
        return ""

    def features(self, rollout: Rollout, trajectory: Trajectory) -> Mapping[str, Tensor]:
        """first, again: "n 2048", of the two frames of every revisit pair."""
        pairs = scored(rollout, trajectory)
        if not pairs:
            return {}
        return {"first": self.extract(rollout.frames[[p.first for p in pairs]]), "again": self.extract(rollout.frames[[p.revisit for p in pairs]])}

    def compute(self, features: Mapping[str, Tensor]) -> float | None:
        return frechet(features["first"], features["again"]) if len(features["first"]) > 1 else None

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
