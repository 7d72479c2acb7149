"""Several evaluations by one command (-m), here or on other machines: which runs that are, what became of them, one comparison.

Jobs of a launcher run anywhere and print into files of their own, so all that is said at the end comes from the run folders.
"""

import argparse
import importlib.util
import json
import os
import secrets
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from harness.results.identity import run_path
from harness.results.run_folder import RunFolder, without_result
from harness.settings.command_line import CONF, composed, swept
from harness.system.files import write_atomic

TELL = "WORLDKV_JOBS"  # the environment's name for the folder in which jobs tell where their results are
LAUNCHERS = {"submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}  # preset -> the package and extra that it needs


@dataclass(frozen=True)
class Job:
    """One combination of the swept values, and the folder where its results lie; None where nobody knows."""

    overrides: tuple[str, ...]
    path: Path | None


def check_launcher(arguments: Sequence[str]) -> None:
    """Exit with the command that installs what the chosen launcher needs, where that is missing."""
    chosen = next((a.split("=", 1)[1] for a in arguments if a.startswith("hydra/launcher=")), "")
    package = LAUNCHERS.get(chosen)
    if package and importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is None:
        extra = {"submitit": "cluster", "ray": "ray"}[package]
        raise SystemExit(f"error: hydra/launcher={chosen} needs the package hydra-{package}-launcher: pip install -e '.[{extra}]'")


def folder_of(cfg: DictConfig, policy: str) -> Path:
    """The run folder of these settings. policy: the name of its config."""
    settings = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"]), resolve=True)
    assert isinstance(settings, dict)
    return run_path(settings, policy)


@dataclass(frozen=True)
class Asked:
    """A command line. several: -m. folder: of the user's own configs. others: flags that ask Hydra for something else."""

    several: bool
    folder: str | None
    overrides: list[str]
    others: list[str]

    @staticmethod
    def by(arguments: Sequence[str]) -> "Asked":
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("-m", "--multirun", action="store_true")
        parser.add_argument("-cd", "--config-dir")
        known, rest = parser.parse_known_args(arguments)
        flags = [a for a in rest if a.startswith("-")]
        several = known.multirun or any(a.upper() == "HYDRA.MODE=MULTIRUN" for a in rest)
        return Asked(several, known.config_dir, [a for a in rest if a not in flags], flags)


def planned(asked: Asked) -> list[Job]:
    """Every combination of the swept values, as Hydra's own sweeper makes them; without a folder where only the job itself can know it (`${now:}`,
    `${hydra:}`). Raises HydraException for what does not compose, ValueError for a `${setting}` that there is not."""
    own = (f"hydra.searchpath=[file://{Path(asked.folder).resolve()}]",) if asked.folder else ()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        combinations = swept(asked.overrides)
    jobs = []
    for overrides in combinations:
        cfg, choices = composed(CONF, (*overrides, *own))
        try:
            jobs.append(Job(overrides, folder_of(cfg, choices["policy"])))
        except InterpolationKeyError as error:  # no job has the setting either
            raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}; name a setting within ${{...}} (harness/run.py --help lists them)") from None
        except OmegaConfBaseException:
            jobs.append(Job(overrides, None))
    return jobs


@contextmanager
def listening() -> Iterator[Path]:
    """A folder, on the disk that results go to, in which every job of this command says which folder is its own (`tell`); its name goes to the
    jobs in their environment."""
    folder = Path("outputs", ".jobs", secrets.token_hex(6)).resolve()
    os.environ[TELL] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[TELL]
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another command's jobs are there, or there never was one
            folder.parent.rmdir()


def tell(number: int, overrides: Sequence[str], path: Path | None) -> None:
    """Say from within a job which folder it writes to. A disk that takes no more is the job's own to report."""
    if where := os.environ.get(TELL):
        with suppress(OSError):
            Path(where).mkdir(parents=True, exist_ok=True)
            write_atomic(Path(where) / f"{number}.json", json.dumps({"overrides": list(overrides), "path": str(path) if path else None}))


def told(folder: Path, jobs: Sequence[Job]) -> list[Job]:
    """What ran: the planned jobs, each with the folder that it told."""
    found = list(jobs)
    for file in sorted(folder.glob("[!.]*.json"), key=lambda p: int(p.stem)):
        said = json.loads(file.read_text(encoding="utf-8"))
        job = Job(tuple(said["overrides"]), Path(said["path"]) if said["path"] else None)
        found[int(file.stem) : int(file.stem) + 1] = [job]
    return found


def record_failure(folder: Path, error: Exception, why: str | None) -> None:
    """Leave the traceback in the run folder, for whoever started the jobs; the next start tries it again. why: the error in a line, if it has one."""
    folder.mkdir(parents=True, exist_ok=True)
    line = " ".join((why or repr(error)).split())
    write_atomic(folder / "error.txt", "".join(traceback.format_exception(error)) + f"\nerror: {line}\n")


def conclude(jobs: Sequence[Job]) -> int:
    """Print one comparison for each set of comparable runs, draw the last one, name what is missing. Returns how many are."""
    from harness.reporting.pictures import experiment_pictures  # takes seconds (torch, matplotlib)
    from harness.reporting.terminal import comparison, console

    out = console()
    missing, last = [], {}
    for job in jobs:
        folder = RunFolder(job.path or Path())
        results = folder.results() if job.path else None
        if results is None or results["run"]["failed"] or without_result(results):
            missing.append(job)
        if results is not None and job.path:
            last[job.path.parent, results["run"]["comparable"]] = job.path
    for (experiment, _), current in last.items():
        out.print(comparison(experiment, current, out.width), highlight=False)
    for experiment, current in {experiment: current for (experiment, _), current in last.items()}.items():
        experiment_pictures(experiment, current)
    for job in missing:
        out.print(f"not finished: {' '.join(job.overrides)}: {_reason(job.path)}", style="red", markup=False, highlight=False, soft_wrap=True)
    folders = ", ".join(sorted({str(j.path.parent) for j in jobs if j.path})) or "no folder"
    out.print(f"{len(jobs) - len(missing)} of {len(jobs)} runs are finished: {folders}", markup=False, highlight=False, soft_wrap=True)
    return len(missing)


def _reason(folder: Path | None) -> str:
    if folder is None:
        return "its settings do not resolve, or its job never began"
    results = RunFolder(folder).results()
    if results is not None and not results["run"]["failed"]:
        return without_result(results)
    if results is not None:
        return f"{len(results['run']['failed'])} trajectories failed: {next(iter(results['run']['failed'].values()))}"
    try:
        return (folder / "error.txt").read_text(errors="replace").strip().splitlines()[-1].removeprefix("error: ")
    except (OSError, IndexError):
        return "its job left no results and no error; the same command goes on from here"
