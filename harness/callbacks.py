"""What happens beside the loop: files, progress, W&B. Results are on disk before anything else is told of them."""

import logging
import netrc
import os
from collections.abc import Sequence
from urllib.parse import urlparse

import lightning as L
import torch
import wandb
from lightning.pytorch.callbacks import BasePredictionWriter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.media import filmstrip, save_image, save_video, strips, to_uint8
from harness.results import Record, RunFolder
from harness.runner import Outcome
from harness.types import ChunkStats, Rollout, Trajectory

log = logging.getLogger(__name__)


class ResultWriter(BasePredictionWriter):
    """Writes every outcome as it comes: media first, the record last, so that a record means that all is there."""

    def __init__(self, folder: RunFolder, videos: int) -> None:
        super().__init__("batch")
        self.folder, self.videos = folder, videos

    def write_on_batch_end(self, trainer, module, prediction: Outcome, batch_indices, batch, batch_idx, dataloader_idx) -> None:
        record = prediction.record
        if record.error:
            log.error("%s failed: %s", record.name, record.error)
        if prediction.rollout is not None and prediction.trajectory is not None:
            rollout, trajectory = prediction.rollout, prediction.trajectory
            if record.pairs:
                ranked = sorted(record.pairs, key=lambda r: r["psnr_revisit"])
                picked = strips(rollout, trajectory, [ranked[-1], ranked[0]])
                save_image(self.folder.path / "trajectories" / f"{record.name}.png", to_uint8(torch.cat(list(picked), 1)[None])[0])
            if module.world.names.index(record.name) < self.videos:
                self._videos(record, rollout, trajectory)
        if prediction.features is not None:
            self.folder.write_features(record.name, *(x.numpy() for x in prediction.features))
        self.folder.write(record)

    def _videos(self, record: Record, rollout: Rollout, trajectory: Trajectory) -> None:
        videos = self.folder.path / "videos"
        frames = rollout.frames
        save_image(videos / f"{record.name}.png", filmstrip(frames))
        if trajectory.reference is not None:
            save_image(videos / f"{record.name}_true.png", filmstrip(trajectory.reference[: len(frames)]))
            frames = torch.cat([frames, trajectory.reference[: len(frames)]], 3)
        save_video(videos / f"{record.name}.mp4", frames, trajectory.fps)
        if record.pairs:
            rows = sorted(record.pairs, key=lambda r: r["revisit"])
            save_video(videos / f"{record.name}_pairs.mp4", strips(rollout, trajectory, rows), trajectory.fps / 2)


class ChunkProgress(L.Callback):
    """A progress bar over trajectories that shows the FPS of the chunk that just came out."""

    def __init__(self, total: int, done: int, enabled: bool) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[live]}"),
        )
        self._bar = Progress(*columns, disable=not enabled)
        self._task = self._bar.add_task("trajectories", total=total, completed=done, live="")

    def observe(self, name: str, stats: ChunkStats) -> None:
        kind = "given" if stats.forced else f"{stats.frames_px / stats.seconds:.1f} fps"
        self._bar.update(self._task, live=f"{name} chunk {stats.chunk}: {kind}")

    def on_predict_start(self, trainer, module) -> None:
        self._bar.start()

    def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self._bar.advance(self._task)

    def on_predict_end(self, trainer, module) -> None:
        self._bar.stop()

    def on_exception(self, trainer, module, exception: BaseException) -> None:
        self._bar.stop()


def log_to_wandb(folder: RunFolder, results: dict, config: dict, mode: str, group: str, name: str) -> str | None:
    """Mirror a finished run to W&B: config, chunk curves, the pair table, summary, media and the folder as an artifact.

    mode: auto (online when logged in, else offline), online or offline. A W&B failure is logged and costs nothing else:
    everything is on disk already. Returns the run's folder or address.
    """
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")
    try:
        with wandb.init(
            project="worldkv-harness",
            group=group,
            name=name,
            job_type="eval",
            config=config,
            mode="online" if mode == "online" else "offline",
            dir=folder.path,
            reinit="finish_previous",
            tags=[config["policy"], config["world"], config["backbone"]],
            settings=wandb.Settings(silent=True, init_timeout=30),
        ) as run:
            _log_run(run, folder, results)
            return run.url or run.dir
    except Exception as error:  # noqa: BLE001  (tracking must never cost a result)
        log.warning("W&B was not told of this run (%s); everything is in %s", error, folder.path)
        return None


def logged_in() -> bool:
    """Whether W&B has a key for its server, without asking anybody: the environment, or the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _log_run(run, folder: RunFolder, results: dict) -> None:
    run.define_metric("frame")
    for prefix in ("chunk_cost/*", "policy/*"):
        run.define_metric(prefix, step_metric="frame")
    for row in _mean_by_chunk([r.chunks for r in folder.records() if not r.error]):
        run.log(row)
    records = [r for r in folder.records() if r.pairs]
    columns = ["trajectory", *records[0].pairs[0]] if records else []
    if columns:
        run.log({"pairs": wandb.Table(columns=list(columns), data=[[r.name, *p.values()] for r in records for p in r.pairs])})
    run.summary.update({k: v["mean"] for k, v in results["summary"].items()})
    for picture in ("frames.png", "chunks.png"):
        if (folder.path / picture).exists():
            run.log({picture.removesuffix(".png"): wandb.Image(str(folder.path / picture))})
    for video in sorted((folder.path / "videos").glob("*.mp4"))[:8]:
        run.log({f"video/{video.stem}": wandb.Video(str(video), format="mp4")})
    artifact = wandb.Artifact(f"run-{run.id}", type="run")
    for file in ("config.yaml", "results.json", "pairs.csv", "chunks.csv", "trajectories.jsonl"):
        artifact.add_file(str(folder.path / file))
    run.log_artifact(artifact)


def _mean_by_chunk(trajectories: Sequence[list[dict]]) -> list[dict[str, float]]:
    """Curves over the frame index: cost and memory of generated chunks, averaged over trajectories."""
    by_start: dict[int, list[dict]] = {}
    for rows in trajectories:
        for row in rows:
            if not row["forced"]:
                by_start.setdefault(row["start"], []).append(row)
    curves = []
    for start, rows in sorted(by_start.items()):

        def mean(key: str, rows: list[dict] = rows) -> float:
            return sum(r[key] for r in rows) / len(rows)

        seconds = sum(mean(f"seconds_{p}") for p in ("plan", "assemble", "passes", "commit", "decode"))
        curves.append(
            {
                "frame": start,
                "chunk_cost/fps": mean("frames_px") / seconds,
                "chunk_cost/attended_tokens": mean("attended_rows"),
                "chunk_cost/window_bytes": mean("window_bytes"),
                "chunk_cost/bank_bytes": sum(mean(key) for key in rows[0] if key.startswith("bank_bytes_")),
                "policy/unreachable_frames": mean("unreachable_frames"),
                "policy/retrieved_frames": sum(len(r["retrieved"].split()) for r in rows) / len(rows),
            }
        )
    return curves
