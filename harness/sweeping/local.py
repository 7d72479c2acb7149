"""Run a W&B sweep file here, with no account and no server: python harness/sweep.py sweeps/budget_ratio.yaml

  jobs=2       points side by side, one device each (CPU cores are shared out)
  count=30     points of a random or bayes search, which have no end of their own; or only the first of a grid
  any setting of the main job, for all points: world.trajectories=4 logger=none name=quick (harness/run.py --help lists them)

Kill it and start it again and it goes on: points are run folders. A point that fails leaves error.txt in its folder and the
others go on; the exit code is then 1, and the next start tries it again. `wandb sweep FILE` and `wandb agent` run the same
file on many machines.
"""

import difflib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

from harness.results.run_folder import without_result
from harness.settings.command_line import CONF, ROOT, check_overrides, composed, understood
from harness.settings.entry_point import entry_point, usage
from harness.sweeping.display import Board
from harness.sweeping.file import SweepFile, Tried, load, overrides_of
from harness.sweeping.point import Point, Summary, known, mean_of, resolve, work
from harness.system.stopping import end_processes

PRELOADED = [  # by the process that points are forks of: Lightning and torchmetrics, which `evaluate` imports late, take 6 s, of every point else
    "harness.evaluation.callbacks",
    "harness.evaluation.evaluate",
    "harness.evaluation.progress",
    "harness.sweeping.local",
    "metrics.metric_set",
]


@dataclass(frozen=True)
class Options:
    """The command line: common are the overrides of all points, the file's own and the user's. anew: finished points run again."""

    file: SweepFile
    common: tuple[str, ...]
    jobs: int
    count: int | None
    anew: bool = False


def options(arguments: Sequence[str]) -> Options:
    """Read the command line. Raises ValueError that says what is wrong, SystemExit for help and for what is no command line."""
    arguments = understood(arguments)
    ours = dict(a.split("=", 1) for a in arguments if a.startswith(("jobs=", "count=")))
    files = [a for a in arguments if "=" not in a]
    given = [a for a in arguments if "=" in a and a.split("=")[0] not in ours]
    if {"-h", "--help"} & set(files):
        print(__doc__)
        raise SystemExit(0)
    if len(files) != 1:
        usage(f"error: give one sweep file\n{__doc__}")
    if wrong := [f"{k}={v}" for k, v in ours.items() if not v.isdigit() or int(v) < 1]:
        raise ValueError(f"{wrong[0]}: give a whole number from 1")
    file = load(Path(files[0]))
    check_overrides(CONF, [*file.fixed, *given, *overrides_of(file.first())])
    keys = {a.split("=")[0].lstrip("+") for a in given}
    if fixed := keys & file.config["parameters"].keys() | keys & {"run_dir"}:
        raise ValueError(f"{', '.join(sorted(fixed))} differs from point to point in this sweep; change the file, or run harness/run.py for one point")
    jobs, count = int(ours.get("jobs", 1)), min((n for n in (int(ours["count"]) if "count" in ours else None, file.cap) if n is not None), default=None)
    for remark in file.remarks():
        print(remark, flush=True)
    if file.method != "grid" and count is None:
        raise ValueError(f"a {file.method} search has no end of its own; say how many points, for instance count=30")
    threads = () if "OMP_NUM_THREADS" in os.environ else (f"threads={max(1, (os.cpu_count() or 1) // jobs)}",)
    before = [o for o in ("progress=false", *threads, *file.fixed) if o.split("=")[0] not in keys]
    common = (*before, *given)
    return Options(file, common, jobs, count, bool(composed(CONF, common)[0].overwrite))


def devices() -> list[str]:
    """GPUs that this machine lets us use, without waking them; none on a machine without."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [d for d in visible.split(",") if d]
    try:
        call = subprocess.run(["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return call.stdout.split()


class Runner:
    """Starts points, each in its own process, and keeps count. What it knows comes from the disk."""

    def __init__(self, options: Options, experiment: Path, context: ForkContext | ForkServerContext) -> None:
        self.options, self.experiment, self._context = options, experiment, context
        self.done: dict[Point, Summary] = {}
        self.failed: dict[Point, str] = {}
        self._planned: list[Point] = []
        self._running: dict[int, tuple[Point, BaseProcess, Path]] = {}  # slot -> its point, process and log
        self._gpus = devices()
        self.wrong = ""  # why the sweep is stopped: its metric is none that runs have

    def run(self) -> int:
        """Everything that is missing. Returns how many points failed."""
        queue, file = self._queue(), self.options.file
        total = self.options.count or 0 if file.method == "bayes" else len(self._planned)
        board = Board(self.experiment.name, file.metric, file.sign, total, len(self.done))
        try:
            with tempfile.TemporaryDirectory(prefix="sweep-") as logs, board:
                self._work(queue, Path(logs), board)
        finally:  # after a signal, say
            end_processes([process for _, process, _ in self._running.values()])
        board.console.print(board.table(self.done, 30))
        for point, error in self.failed.items():
            board.console.print(f"failed: {point.path}/error.txt: {error}", style="red", markup=False, highlight=False)
        if self.wrong:
            board.console.print(f"stopped: {self.wrong}", style="red", markup=False, highlight=False, soft_wrap=True)
        board.console.print(f"results: {self.experiment}", markup=False, highlight=False, soft_wrap=True)
        return len(self.failed) + bool(self.wrong)

    def _work(self, queue: Iterator[Point], logs: Path, board: Board) -> None:
        more = True
        while more or self._running:
            more = more and not self.wrong
            while more and len(self._running) < self.options.jobs:
                point = next(queue, None)
                more = point is not None
                if point is not None:
                    self._start(point, logs, board)
            connection.wait([process.sentinel for _, process, _ in self._running.values()], timeout=0.5)
            for slot in [s for s, (_, process, _) in self._running.items() if not process.is_alive()]:
                self._collect(slot, board)
            board.update(self.done, [p for p, _, _ in self._running.values()], len(self.failed))

    def _queue(self) -> Iterator[Point]:
        """Points still to run. Those that the disk has results of are counted at once."""
        o, missing, found = self.options, [], {}
        if o.file.method == "bayes":
            planned = iter(known(self.experiment, o.file.digest, o.common))
        else:
            planned = (resolve(p, o.common, self.experiment) for p in o.file.points(o.count))
        for point in planned:
            if point.path in found:
                continue  # two points of a grid may be one evaluation
            found[point.path] = point
            results = None if o.anew else point.results()
            if results:
                self._finished(point, results)
            else:
                missing.append(point)
                self._warm()
        self._planned = list(found.values())
        return self._pending(missing)

    def _warm(self) -> None:
        """Let a process import torch and the rest once, while we go on; every point is then a fork of it."""
        if self._context.get_start_method() == "forkserver":
            forkserver.ensure_running()

    def _pending(self, missing: Sequence[Point]) -> Iterator[Point]:
        yield from (p for p in missing if not self._reached())
        if self.options.file.method == "bayes":
            for index in range(len(self._planned), self.options.count or 0):
                if self._reached():
                    return
                self._warm()
                point = resolve(self.options.file.suggest(index, self._tried()), self.options.common, self.experiment)
                self._planned.append(point)
                yield point

    def _tried(self) -> list[Tried]:
        values = {p: mean_of(s, self.options.file.metric) for p, s in self.done.items()} | dict.fromkeys(self.failed, float("nan"))
        return [Tried(p.parameters, values.get(p)) for p in self._planned]

    def _reached(self) -> bool:
        return any(self.options.file.reached(mean_of(s, self.options.file.metric)) for s in self.done.values() if self.options.file.metric in s)

    def _start(self, point: Point, logs: Path, board: Board) -> None:
        point.begin(self.options.file.digest, self._planned.index(point))
        if point.problem:
            self._ended(point, 1, point.problem, board)
            return
        slot = next(i for i in range(self.options.jobs) if i not in self._running)
        log = logs / f"{point.path.name}.txt"
        log.touch()
        device = self._gpus[slot % len(self._gpus)] if self._gpus else None
        process = self._context.Process(target=work, args=(point.overrides, str(log), device))
        process.start()
        self._running[slot] = (point, process, log)

    def _collect(self, slot: int, board: Board) -> None:
        point, process, log = self._running.pop(slot)
        process.join()
        self._ended(point, process.exitcode or 0, log.read_text(errors="replace"), board)

    def _ended(self, point: Point, code: int, said: str, board: Board) -> None:
        point.end(code, said)
        results = None if code else point.results()
        if results:
            self._finished(point, results)
            how = self.failed.get(point) or f"{self.options.file.metric} {mean_of(self.done[point], self.options.file.metric):.4g}"
        else:
            lines = said.strip().splitlines()
            lines = [f"ended by signal {-code}"] if code < 0 else lines or ["no results"]
            how = self.failed[point] = lines[0 if point.problem else -1].removeprefix("error: ")
        board.line(point, how, len(self.done) + len(self.failed))

    def _finished(self, point: Point, results: dict) -> None:
        """Take a point's results. A metric that is no column of theirs is none of another point's either; where nothing was scored, others may be."""
        summary, metric = results["summary"], self.options.file.metric
        if metric in summary:
            self.done[point] = summary
        elif why := without_result(results):
            self.failed[point] = why
        elif metric in {c["key"] for c in results.get("columns", [])}:
            self.failed[point] = f"it has no {metric}, which other points may have"
        else:
            self.done[point] = summary
            near = difflib.get_close_matches(metric, summary, 5, 0.4) or sorted(k for k in summary if k.startswith("quality/"))
            self.wrong = self.wrong or f"runs have no {metric}, which the sweep file names as its metric; did you mean {', '.join(near)}?"


def sweep(arguments: Sequence[str], context: ForkContext | ForkServerContext) -> None:
    """Run a command line's sweep. context: how points are started. Raises SystemExit where any failed."""
    chosen = options(arguments)
    cfg, _ = composed(CONF, chosen.common)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if failed := Runner(chosen, Path("outputs") / str(cfg.name), context).run():
        raise SystemExit(f"error: {failed} points failed; the same command tries them again")


@entry_point("finished trajectories are kept, the same command goes on")
def main() -> None:
    """Entry point: exit status 0 if every point is done, 1 if any failed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    sweep(sys.argv[1:], context)


if __name__ == "__main__":
    main()
