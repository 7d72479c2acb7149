"""One point of a sweep: where its results lie, what the disk says of it, and the process that evaluates it."""

import faulthandler
import json
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.results.identity import config_hash, run_path
from harness.results.run_folder import RunFolder
from harness.settings.command_line import CONF, composed, label_of
from harness.settings.entry_point import explained
from harness.sweeping.file import Scalar, overrides_of
from harness.system.files import write_atomic
from harness.system.stopping import exit_on_signals

Summary = Mapping[str, Mapping[str, Any]]  # of results.json: of every column its mean, ci95 and n


def mean_of(summary: Summary, metric: str, missing: float = float("nan")) -> float:
    return summary[metric]["mean"] if metric in summary else missing


@dataclass(frozen=True, eq=False)
class Point:
    """overrides: all of them, as on a command line. path: its run folder. problem: why there is no such config, else empty."""

    parameters: dict[str, Scalar]
    overrides: tuple[str, ...]
    path: Path
    problem: str = ""

    def results(self) -> dict | None:
        """Its results if it is finished and no trajectory failed; a failed one is tried again by the next start."""
        results = RunFolder(self.path).results()
        return None if results is None or results["run"]["failed"] else results

    def error(self) -> str:
        """What it said when it last failed, else nothing."""
        try:
            return (self.path / "error.txt").read_text(errors="replace")
        except OSError:
            return ""

    def records(self) -> int:
        """Trajectories that are on disk."""
        return len(list((self.path / "trajectories").glob("[!.]*.json")))

    def begin(self, sweep: str, index: int) -> None:
        """Leave on disk what a restarted search must know."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "error.txt").unlink(missing_ok=True)
        about = {"sweep": sweep, "index": index, "parameters": self.parameters, "overrides": self.overrides}
        write_atomic(self.path / "point.json", json.dumps(about, indent=1) + "\n")

    def end(self, code: int | None, said: str) -> None:
        """Keep what the process printed, its traceback if it failed."""
        if code:
            how = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
            said = f"{how}: {' '.join(self.overrides)}\n\n{said}"
        write_atomic(self.path / ("error.txt" if code else "log.txt"), said)


def resolve(parameters: dict[str, Scalar], common: Sequence[str], experiment: Path) -> Point:
    """The point of these parameters. A config that cannot be composed is a point with a problem, not an error."""
    overrides = (*common, *overrides_of(parameters))
    try:
        cfg, choices = composed(CONF, overrides)
        settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
        assert isinstance(settings, dict)
        return Point(parameters, overrides, run_path(settings, choices["policy"]))
    except (HydraException, OmegaConfBaseException) as error:
        return Point(parameters, overrides, experiment / f"invalid-{config_hash({'overrides': overrides})}", str(error))


def known(experiment: Path, sweep: str, common: Sequence[str]) -> list[Point]:
    """The points of a sweep that the disk has, in the order in which they were suggested: those whose settings decide the same results today,
    with however many jobs or threads they were made."""
    found = []
    for file in experiment.glob("*/point.json"):
        try:
            about = json.loads(file.read_text())
            if about["sweep"] != sweep:
                continue
            index, point = int(about["index"]), resolve(about["parameters"], common, experiment)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # damaged: a point that the search does not know
            continue
        if point.path.name == file.parent.name and (not point.problem or about["overrides"] == list(point.overrides)):
            found.append((index, point))
    return [point for _, point in sorted(found, key=lambda pair: pair[0])]


def work(overrides: Sequence[str], log: str, device: str | None) -> None:
    """Evaluate one point, in a process of its own. What it prints goes to `log`; it ends when the sweep is gone."""
    exit_on_signals()
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        from harness.evaluation.evaluate import evaluate  # imported before, by the process that this one is a fork of

        cfg, choices = composed(CONF, overrides)
        results = evaluate(cfg, choices, label_of(cfg, choices, overrides), compare=False)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()  # for error.txt, whose last line is the cause
        raise SystemExit(f"error: {' '.join((explained(error) or repr(error)).split())}") from None
    if failed := results["run"]["failed"]:
        raise SystemExit(f"{len(failed)} trajectories failed: {next(iter(failed.values()))}")


def _end_with_the_sweep() -> None:
    """A sweep that is killed cannot tell its processes; each waits for the end of its parent and follows."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGKILL)
