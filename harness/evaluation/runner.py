"""The Lightning loop: one predict step is one trajectory."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.backbone import Backbone
from harness.cache.page_files import DamagedPage
from harness.cache.stores import PackedStore
from harness.evaluation.kept import Kept
from harness.evaluation.novelty import kinds
from harness.evaluation.probes import NO_PROBES, Probes
from harness.evaluation.rolling import ALIKE, Rolled, Roller
from harness.outcome import ChunkStats, Rollout
from harness.policy import CachePolicy
from harness.results.record import Record, sound
from harness.rollout import NO_SNAPSHOT, Snapshot
from harness.system.stopping import exit_on_signals
from harness.trajectory import Trajectory
from harness.worlds.base import World
from harness.worlds.poses import top_view
from metrics.cost import cost, held
from metrics.drift import drift
from metrics.metric_set import MetricSet
from metrics.novelty import score_kinds
from metrics.recall import mean_audit, mean_recall, score_probes
from metrics.retention import retention
from metrics.revisit import mean_gaps, mean_scores, score_pairs


@dataclass(frozen=True)
class Outcome:
    """What a predict step hands to the writers. A failed trajectory has a record with its error and no rollout."""

    record: Record
    trajectory: Trajectory | None = None
    rollout: Rollout | None = None
    features: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)  # that rollout metrics keep, by metric


class Pending(Dataset[int]):
    """Indices of the trajectories that are still to run."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices = list(indices)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> int:
        return self._indices[index]


def loader(indices: Sequence[int]) -> DataLoader[int]:
    return DataLoader(Pending(indices), batch_size=None)


class EvalModule(L.LightningModule):
    """Rolls out trajectory `index` under the policy, scores it, and returns an `Outcome`.

    make_backbone: builds the backbone on a device; called once in every process that Lightning starts. kept: see `Roller`.
    """

    def __init__(
        self,
        make_backbone: Callable[[str], Backbone],
        policy: CachePolicy,
        store: PackedStore,
        world: World,
        metrics: MetricSet,
        seed: int,
        observe: Callable[[str, ChunkStats], None] = lambda name, stats: None,
        snapshot: Snapshot = NO_SNAPSHOT,
        probes: Probes = NO_PROBES,
        kept: Kept | None = None,
    ) -> None:
        super().__init__()
        self.make_backbone, self.policy, self.store, self.world = make_backbone, policy, store, world
        self.metrics, self.seed, self.observe = metrics, seed, observe
        self.snapshot, self.probes, self.kept = snapshot, probes, kept or Kept()
        self.rollout_seconds = 0.0  # wall time within `rollout`, of this process

    def setup(self, stage: str) -> None:
        backbone = self.make_backbone(str(self.trainer.strategy.root_device))
        self.roller = Roller(backbone, self.policy, self.store, self.world, self.seed, self.snapshot, self.probes, self.kept)

    @property
    def chunks(self) -> int:
        """Of the trajectory that is being made."""
        return self.roller.chunks

    def on_predict_start(self) -> None:
        if self.trainer.world_size > 1:  # a process that Lightning started, whose own handler would swallow the signal
            exit_on_signals()

    def predict_step(self, index: int) -> Outcome:
        """Errors of one trajectory are recorded and the rest goes on; those of callers (ValueError) are not hidden."""
        name = self.world.names[index]
        try:
            return self._scored(self.roller.roll(index, self.observe))
        except ALIKE as error:
            return Outcome(Record(name, {}, error=str(error)))
        except DamagedPage as error:
            self._check_alone(error)
            return Outcome(Record(name, {}, error=str(error)))
        except torch.OutOfMemoryError as error:
            remedy = "use store=cpu or store=tiered, a smaller policy budget, shorter trajectories or backbone.dtype=bfloat16"
            why = f"out of memory ({error}); {remedy}"
            self._check_alone(ValueError(f"{name}: {why}"))
        except StopIteration as error:  # Lightning would take it for the end of the trajectories
            raise RuntimeError(f"{name}: an iterator ended too early") from error
        torch.cuda.empty_cache()  # not within `except`, where the error still holds the tensors of the chunk
        return Outcome(Record(name, {}, error=why))

    def _check_alone(self, error: Exception) -> None:
        """Raise an error that other ranks of the rollout have not met: they are in the middle of a chunk, so none of them can go on."""
        if self.roller.backbone.geometry.ranks.size > 1:
            raise ValueError(str(error)) from error

    def _scored(self, rolled: Rolled) -> Outcome:
        trajectory, out, views, backbone = rolled.trajectory, rolled.rollout, rolled.views, self.roller.backbone
        self.rollout_seconds += rolled.seconds
        pairs = score_pairs(out, trajectory, self.roller.roundtrip(trajectory), self.metrics.frame)
        probed = score_probes(views, out, trajectory, self.metrics.frame)
        values = mean_scores(pairs) | mean_gaps(pairs) | mean_recall(probed) | mean_audit(probed) | drift(out, trajectory) | cost(out)
        values |= score_kinds(out, trajectory, kinds(trajectory, backbone.geometry), self.metrics.frame)
        values |= retention(values, self.metrics.frame)
        values |= {"pairs": float(len(pairs)), "chunks": float(len(out.stats)), "frames": float(len(out.frames))}
        chunks, camera = [chunk_row(s) for s in out.stats], top_view(trajectory.c2w[: len(out.frames)])
        missed = "" if pairs else trajectory.no_pairs or unscored(trajectory, len(out.frames))
        unaudited = {arm: why for v in views for arm, why in v.unaudited.items() if not any(arm in w.audit for w in views)}
        record = Record(trajectory.name, values, pairs, chunks, out.noise, camera=camera, probes=probed, no_pairs=missed, unaudited=unaudited)
        record = sound(record)
        if record.error:
            return Outcome(record)
        return Outcome(record, trajectory, out, self.metrics.features(out, trajectory))


def unscored(trajectory: Trajectory, frames: int) -> str:
    """Why none of a path's revisit pairs was scored: all of them are given, or come after the end."""
    later = sum(p.revisit >= frames for p in trajectory.pairs)
    return f"of {len(trajectory.pairs)} revisits {later} come after the {frames} frames that were made, and the others are given (world.protocol)"


def chunk_row(stats: ChunkStats) -> dict[str, float | str]:
    """A chunk's row in chunks.csv; lists (of frames, or of rows a frame) as space-separated text, if they were traced."""
    lists = ("retrieved", "attended", "unreachable", "stored", "taken")
    row: dict[str, float | str] = {k: getattr(stats, k) for k in stats.__dataclass_fields__ if k not in lists}
    return row | held(stats) | {k: " ".join(map(str, getattr(stats, k))) for k in lists if getattr(stats, k) is not None}
