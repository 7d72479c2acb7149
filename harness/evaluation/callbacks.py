"""What happens beside the loop: files and progress. Results are on disk before anything else is told of them."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.evaluation.live import LiveLog
from harness.evaluation.runner import Outcome
from harness.outcome import ChunkStats
from harness.reporting.media import drawn, films, save_image, strips, to_uint8
from harness.results.run_folder import RunFolder
from harness.system.background import Background
from harness.system.files import file_name
from metrics.column import leading_score

log = logging.getLogger(__name__)


class ResultWriter(BasePredictionWriter):
    """Writes every outcome as it comes, in a thread beside the next trajectory: media first, the record last, so that a record
    means that all is there. What the thread runs into (a disk that is full) is raised when the next outcome comes, or at the end.
    """

    def __init__(self, folder: RunFolder, videos: int, live: LiveLog) -> None:
        super().__init__("batch")
        self.folder, self.videos, self.live = folder, videos, live
        self._background: Background | None = None

    def on_predict_start(self, trainer, module) -> None:
        self._background = Background()  # not before: a thread cannot be sent to the processes that Lightning starts

    def write_on_batch_end(self, trainer, module, prediction: Outcome, batch_indices, batch, batch_idx, dataloader_idx) -> None:
        record = prediction.record
        if record.error:
            log.error("%s failed: %s", record.name, record.error)
        jobs: list[Callable[[], object]] = []
        if prediction.rollout is not None and prediction.trajectory is not None:
            rollout, trajectory = prediction.rollout, prediction.trajectory
            if record.pairs:
                ranked = sorted(record.pairs, key=leading_score)
                picked = strips(rollout, trajectory, [ranked[-1], ranked[0]])
                jobs.append(
                    partial(save_image, self.folder.path / "trajectories" / f"{file_name(record.name)}.png", to_uint8(torch.cat(list(picked), 1)[None])[0])
                )
            if module.world.names.index(record.name) < self.videos:
                jobs += films(self.folder.path / "videos", file_name(record.name), rollout, trajectory, record.pairs)
            jobs = [partial(drawn, job) for job in jobs]
        if prediction.features:
            features = {m: {k: x.numpy() for k, x in kept.items()} for m, kept in prediction.features.items()}
            jobs.append(partial(self.folder.write_features, record.name, features))
        assert self._background is not None
        self._background.do([*jobs, partial(self.folder.write, record), partial(self.live.trajectory, record)])

    def on_predict_end(self, trainer, module) -> None:
        assert self._background is not None
        self._background.close()

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        """What ends the run is told already; the trajectory that is being written is finished first."""
        with suppress(OSError):
            if self._background is not None:  # not in the process that only waits for others
                self._background.close()


class ChunkProgress(L.Callback):
    """A line over trajectories: how many, the time taken and left, and the FPS of the chunk that just came out."""

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        columns = (
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(10),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[live]}", markup=False),
        )
        self._bar = Progress(*columns, disable=not enabled)
        self._task = self._bar.add_task("trajectories", total=total, completed=done, live="")
        self._room = self._bar.console.width - len(f"{total}/{total} {'-' * 10} 0:00:00 0:00:00 ")

    def observe(self, name: str, stats: ChunkStats) -> None:
        kind = "given" if stats.forced else f"{stats.frames_px / stats.seconds:.1f} fps"
        short = f"chunk {stats.chunk}: {kind}"
        self._bar.update(self._task, live=escape(f"{name} {short}" if len(name) + 1 + len(short) <= self._room else short))

    def on_predict_start(self, trainer, module) -> None:
        self._bar.start()

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._bar.advance(self._task)

    def on_predict_end(self, trainer, module) -> None:
        self._bar.stop()

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        self._bar.stop()
