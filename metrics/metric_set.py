"""The metrics of a run: those of pairs of frames, those of whole rollouts, and the columns that they give."""

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.outcome import Rollout
from harness.trajectory import Trajectory
from metrics import cost, drift, revisit
from metrics.column import ARMS, Column
from metrics.fid import FID
from metrics.frame import LPIPS, PSNR, SSIM, FrameMetric
from metrics.novelty import kind_columns
from metrics.recall import audit_columns, recall_columns
from metrics.retention import retention_columns
from metrics.rollout import RolloutMetric

log = logging.getLogger(__name__)
ENDS = (*ARMS, "true", "revisit", "reference")  # of names of columns that are made of a metric's


@dataclass(frozen=True)
class MetricSet:
    """frame: in the order of the settings. rollout: those that can be computed here. left_out: the others, and why."""

    frame: tuple[FrameMetric, ...] = ()
    rollout: tuple[RolloutMetric, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(metrics: Iterable[object]) -> "MetricSet":
        """Sort metrics by what they compare. Raises ValueError for two of one name and for what is no metric."""
        given = list(metrics)
        frame = tuple(m for m in given if isinstance(m, FrameMetric))
        rollout = tuple(m for m in given if isinstance(m, RolloutMetric))
        if strange := [m for m in given if not isinstance(m, FrameMetric | RolloutMetric)]:
            raise ValueError(f"metric: {type(strange[0]).__name__} is neither a FrameMetric (metrics/frame.py) nor a RolloutMetric (metrics/rollout.py)")
        names = [m.name for m in (*frame, *rollout)]
        if twice := {n for n in names if names.count(n) > 1}:
            raise ValueError(
                f"metric: {len(names)} metrics have {len(set(names))} names; {', '.join(sorted(twice))} is there twice: give each a `name` of its own"
            )
        if taken := next((n for n in names if n.startswith("gap_") or n.rpartition("_")[2] in ENDS), None):
            raise ValueError(
                f"metric: `{taken}` reads as another column; use a `name` that begins otherwise than gap_ and ends otherwise than {', '.join(ENDS)}"
            )
        return MetricSet(frame, tuple(m for m in rollout if not m.missing), {m.name: m.missing for m in rollout if m.missing})

    def versions(self) -> dict[str, str]:
        """By name: runs of other versions are not comparable. Metrics that were left out compare nothing."""
        return {m.name: m.version for m in (*self.frame, *self.rollout)}

    def columns(self) -> list[Column]:
        """Every column that a run of these metrics can have, in the order of tables."""
        again, true = zip(*(m.columns() for m in self.frame), strict=True) if self.frame else ((), ())
        quality = (
            *again,
            *true,
            *revisit.COLUMNS,
            *self._probed(),
            *(c for m in self.frame for c in kind_columns(m)),
            *drift.COLUMNS,
            *(m.column() for m in self.rollout),
        )
        return [*quality, *cost.COLUMNS, *(c for m in self.frame for c in retention_columns(m))]

    def _probed(self) -> list[Column]:
        return [c for m in self.frame for c in recall_columns(m)] + [c for m in self.frame for c in audit_columns(m)]

    def features(self, rollout: Rollout, trajectory: Trajectory) -> dict[str, Mapping[str, Tensor]]:
        """What every rollout metric keeps of one rollout."""
        return {m.name: m.features(rollout, trajectory) for m in self.rollout}

    def of_run(self, features: Mapping[str, Mapping[str, Tensor]], trajectories: int) -> dict[str, dict]:
        """Summary entries of the rollout metrics from the features of all rollouts. One value a run: it has no interval."""
        entries = {}
        for metric in self.rollout:
            value = metric.compute(features[metric.name]) if features.get(metric.name) else None
            if value is not None and not math.isfinite(value := float(torch.as_tensor(value))):
                log.warning("%s is %s over %s trajectories, and left out", metric.name, value, trajectories)
            elif value is not None:
                entries[f"quality/{metric.name}"] = {"mean": value, "ci95": None, "n": trajectories}
        return entries


def shipped() -> list[Column]:
    """The columns of the metrics that come with the harness: of run folders that do not say what their columns are."""
    return MetricSet((PSNR(), SSIM(), LPIPS()), (FID(),)).columns()
