"""Metrics of whole rollouts: distances between sets of frames or of videos (FID, FVD), which no single pair of frames gives."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from harness.outcome import Rollout
from harness.trajectory import Trajectory
from metrics.column import Column


class RolloutMetric(ABC):
    """One value a run, in two steps: `features` of every rollout as it comes, `compute` from those of all rollouts at the end.

    Features are kept in the run folder, so a run that was stopped goes on without making them again. `version` changes
    whenever a value would. heading, unit, decimals, rank: as those of `FrameMetric`.
    """

    name: str
    version: str
    higher_is_better: bool
    heading: str = ""
    unit: str = ""
    decimals: int = 2
    rank: int = 3
    about: str = "of all rollouts of the run together"

    @property
    def missing(self) -> str:
        """Why it cannot be computed here (weights, a package), and what to do; the run then goes on without it. Empty if it can."""
        return ""

    @abstractmethod
    def features(self, rollout: Rollout, trajectory: Trajectory) -> Mapping[str, Tensor]:
        """What is kept of one rollout: tensors by name, on the CPU, the first axis counting what is compared ("n ...").

        {} if there is nothing to compare. The true video is `trajectory.reference`, where the world has one.
        """

    @abstractmethod
    def compute(self, features: Mapping[str, Tensor]) -> float | None:
        """The run's value. features: of all rollouts, joined along the first axis. None where they are too few."""

    def column(self) -> Column:
        better = 1 if self.higher_is_better else -1
        heading = self.heading or self.name.upper()
        return Column(f"quality/{self.name}", self.name, heading, "quality", self.decimals, better, self.about, unit=self.unit, rank=self.rank)
