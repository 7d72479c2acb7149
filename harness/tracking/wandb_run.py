"""W&B follows a run and mirrors it when it is finished. Results are on disk before.

A server that does not answer is left alone: the run is kept offline in its folder, and `wandb sync` sends it later.
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from harness.reporting.columns import columns_of, revisits
from harness.reporting.curves import means
from harness.reporting.media import video_frames
from harness.results.run_folder import ID, RunFolder
from harness.system.files import file_name
from harness.tracking.tracker import PICTURES, Label, folder_id
from harness.tracking.wandb_server import ANSWER, Mode, mode_of, server
from metrics.column import Column

log = logging.getLogger(__name__)

START = 20  # for a run to begin
FINISH = 120  # for what was logged to be sent; what was not is still in the run's wandb/ folder
PICTURED = 64  # pairs with pictures: a table is for looking at, and every picture is a file to send
PAIRS = "revisit_pairs"  # what the table of pairs is called: never as a column of the summary, which would take its place
CURVES = {"gap": "chunks since seen, at least", "metres": "metres from the path, at least"}  # axes of recall curves
PARTS = ("first visit", "revisit", "true view", "difference")  # of a strip, see media.strips


class WandbTracker:
    """mode: auto (online when logged in, else offline), online or offline. resumed: whether an earlier process began this run, which
    then goes on under its id; else W&B replaces all that it has of it."""

    def __init__(self, folder: RunFolder, config: dict, mode: str, label: Label, resumed: bool = False) -> None:
        self._folder, self._config, self._wanted, self._label, self._resumed = folder, config, mode, label, resumed
        self._mode: Mode | None = None
        self._run: wandb.Run | None = None

    def begin(self) -> None:
        self._mode = mode_of(self._wanted)
        try:
            self._run = self._init(self._mode, _run_id(self._folder.path), self._resumed and self._mode == "online")
            self._run.define_metric("live/*", summary="none")  # the last point of a curve is not the run's
        except Exception as error:  # noqa: BLE001  (tracking must never cost a result)
            _warn(self._mode, error)

    def log(self, row: dict[str, float]) -> None:
        try:
            if self._run is not None:
                self._run.log(row)
        except Exception as error:  # noqa: BLE001
            self._run = None
            _warn(str(self._mode), error)

    def finish(self, results: dict | None) -> str | None:
        """The run's folder or address. What failed online is kept offline, whole; None where that failed too."""
        if results is None:
            if self._run is not None:
                with suppress(Exception):
                    self._run.finish(exit_code=1)
            return None
        chosen = self._mode or mode_of(self._wanted)
        attempts: tuple[Mode, ...] = ("online", "offline") if chosen == "online" else (chosen,)
        # an upload that failed late keeps the folder's id in use until this process ends: the last attempt takes a new one
        tries: list[tuple[Mode, bool]] = [*((attempt, True) for attempt in attempts), (attempts[-1], False)]
        for attempt, own in tries:
            try:
                run = self._run or self._init(attempt, _run_id(self._folder.path) if own else None, False)
                self._run = None
                with run:
                    _log(run, self._folder, results, self._config)
                    return run.url if attempt == "online" and run.url else str(Path(run.dir).parent)  # what `wandb sync` takes, not the files/ in it
            except Exception as error:  # noqa: BLE001
                _warn(attempt, error)
                if isinstance(error, ConnectionError):  # W&B's own process has died: another one starts at the next attempt
                    with suppress(Exception):
                        wandb.teardown(exit_code=1)
        log.warning("everything is in %s", self._folder.path)
        return None

    def _init(self, mode: Mode, run_id: str | None, resume: bool) -> "wandb.Run":
        label, config = self._label, self._config
        settings = wandb.Settings(
            silent=True,
            base_url=server(),
            init_timeout=START,
            login_timeout=START,
            finish_timeout=FINISH,
            x_graphql_retry_max=2,
            x_graphql_timeout_seconds=ANSWER,
            x_graphql_retry_wait_max_seconds=2,
            x_file_stream_retry_max=2,
            x_file_stream_retry_wait_max_seconds=2,
            x_file_transfer_retry_max=2,
            x_file_transfer_retry_wait_max_seconds=2,
        )
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "worldkv-harness"),
            group=label.group,
            name=label.name,
            job_type="eval",
            config=config,
            mode=mode,
            dir=self._folder.path,
            reinit="finish_previous",
            id=run_id,
            resume="allow" if resume else None,
            tags=list(dict.fromkeys(str(t)[:64] for t in (config["policy"], config["world"], config["backbone"], *label.tags))),
            notes=label.notes,
            settings=settings,
        )


def log_to_wandb(folder: RunFolder, results: dict, config: dict, mode: str, label: Label) -> str | None:
    """Mirror a finished run: config, curves over the rollout, the pair table, summary, videos, the folder as an artifact."""
    tracker = WandbTracker(folder, config, mode, label)
    tracker.begin()
    return tracker.finish(results)


def _warn(mode: str, error: Exception) -> None:
    log.warning("W&B was not told of this run %s (%s: %s)", mode, type(error).__name__, str(error).strip().splitlines()[:1])


def _run_id(folder: Path) -> str | None:
    """The folder's id at W&B, which stays with the folder, so that a run that is repeated (overwrite=true) is no second one.

    None where somebody else gives the id: a W&B agent.
    """
    if os.environ.get("WANDB_RUN_ID") or os.environ.get("WANDB_SWEEP_ID"):
        return None
    return folder_id(folder)


def setting(key: str) -> str:
    """The summary's copy of a setting. W&B's panels read a dot in a config key as a level, and ours are flat, as a sweep's are."""
    return f"setting/{key.replace('.', '_')}"


def _log(run, folder: RunFolder, results: dict, config: dict) -> None:
    for prefix in ("cost/*", "policy/*"):  # a curve's last value is not the run's: the summary below is
        run.define_metric(prefix, step_metric="frame", summary="none")
    for row in means([r.chunks for r in folder.good(results)]):
        run.log(row)
    if table := pair_table(folder, columns_of([results]), results):
        run.log({PAIRS: table})
    for key, chart in recall_charts(results).items():
        run.log({key: chart})
    for picture, key in PICTURES.items():
        if (folder.path / picture).exists():
            run.log({key: wandb.Image(str(folder.path / picture))})
    videos = folder.path / "videos"
    for i, rollout in enumerate(islice((p for p in sorted(videos.glob("[!.]*.mp4")) if not p.stem.endswith("_pairs")), 4)):
        for kind, file in (("rollout", rollout), ("pairs", rollout.with_stem(f"{rollout.stem}_pairs"))):
            if file.exists():  # keys without names of trajectories, so that dashboards know them
                run.log({f"video/{kind}_{i}": wandb.Video(str(file), caption=rollout.stem, format="mp4")})
    run.summary.update({setting(k): v for k, v in config.items() if isinstance(v, bool | int | float | str)})
    run.summary.update({k: v["mean"] for k, v in results["summary"].items()})
    artifact = wandb.Artifact(f"run-{run.id}", type="run", metadata={"folder": str(folder.path.resolve())})
    for file in files_of(folder.path):
        artifact.add_file(str(file), name=str(file.relative_to(folder.path)))
    run.log_artifact(artifact)


def files_of(folder: Path) -> list[Path]:
    """The run folder's files, less W&B's own and those that a process is writing just now, or left when it was killed."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    parts = {p: p.relative_to(folder).parts for p in files}
    return [p for p in files if parts[p][0] not in ("wandb", ID) and not any(part.startswith(".") for part in parts[p])]


def pair_table(folder: RunFolder, columns: Sequence[Column], results: dict | None = None) -> wandb.Table | None:
    """A row for every revisit pair: what was seen (of the trajectories that have videos), and its scores, the columns' first."""
    headings = {c.key.removeprefix("quality/"): c.title for c in revisits(columns)} | {"gap_frames": "gap (frames)"}
    rows: list[dict] = []
    pictured = 0
    for record in folder.good(results):
        pairs = sorted(record.pairs, key=lambda r: r["revisit"])  # as in the video
        strips = list(_strips(folder.path / "videos" / f"{file_name(record.name)}_pairs.mp4", min(len(pairs), PICTURED - pictured)))
        pictured += len(strips)
        for i, pair in enumerate(pairs):
            seen = [wandb.Image(part, file_type="jpg") for part in np.split(strips[i], len(PARTS), 1)] if i < len(strips) else [None] * len(PARTS)
            scores = {k: v for k, v in pair.items() if k not in ("first", "revisit")}
            main = {heading: scores.pop(key) for key, heading in headings.items() if key in scores}
            rows.append({"trajectory": record.name, "first": pair["first"], "again": pair["revisit"], **dict(zip(PARTS, seen, strict=True)), **main, **scores})
    if not rows:
        return None
    return wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])


def recall_charts(results: dict) -> dict[str, Any]:
    """A chart a score and axis of its recall curves, by key."""
    charts = {}
    for score, axes in results.get("curves", {}).items():
        for axis, title in CURVES.items():
            rows = [[p["from"], p["mean"], *(p["ci95"] or (None, None)), p["n"]] for p in axes[axis]]
            table = wandb.Table(columns=[title, score, "low", "high", "trajectories"], data=rows)
            charts[f"curve/{score.replace('/', '_')}_{axis}"] = wandb.plot.line(table, title, score, title=f"{score} by {title}")
    return charts


def _strips(video: Path, most: int):
    if most > 0 and video.exists():
        for pixels in islice(video_frames(video), most):
            yield pixels[:, : pixels.shape[1] // len(PARTS) * len(PARTS)]
