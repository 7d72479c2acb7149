"""The main job: evaluate one KV-cache policy on revisit trajectories.

python harness/run.py policy=worldkv        (--help lists the choices and settings)
"""

import os
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.evaluation.multirun import Asked, check_launcher, conclude, folder_of, listening, planned, record_failure, tell, told
from harness.results.run_folder import without_result
from harness.settings.build import plain
from harness.settings.check import check_fields
from harness.settings.command_line import CONF, ROOT, check_overrides, check_single, label_of, understood
from harness.settings.entry_point import end, entry_point, explained
from harness.settings.help import asks_for_help, help_text
from harness.settings.main_job import GROUPS, MainSettings
from harness.settings.packages import check_packages
from harness.settings.plugins import with_plugins
from harness.system.importing import importing

BEGAN = time.perf_counter()  # as near to the start of the process as a module can look


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _main(cfg: DictConfig) -> None:
    began = time.perf_counter()
    check_packages()  # a job of a launcher starts here
    hydra_config = HydraConfig.get()
    choices = {k: str(v) for k, v in hydra_config.runtime.choices.items()}
    several = hydra_config.mode == RunMode.MULTIRUN
    label = label_of(cfg, choices, hydra_config.overrides.task)
    path = _resolved(cfg, choices["policy"])
    if several:
        tell(hydra_config.job.num, hydra_config.overrides.task, path if isinstance(path, Path) else None)
    if not isinstance(path, Path):
        print(f"error: {path}", flush=True)
        if several:
            return
        raise SystemExit(1)
    try:
        check_fields({k: v for k, v in plain(cfg).items() if k not in GROUPS}, MainSettings)
        if not _is_another_rank(cfg):
            print(_first_line(cfg, choices, label), flush=True)
        with importing():
            from harness.evaluation.evaluate import evaluate  # imports torch: --help, typos and the line above come before

        results = evaluate(cfg, choices, label, compare=not several, began=began if several else BEGAN, several=several)
        path.joinpath("error.txt").unlink(missing_ok=True)
    except Exception as error:  # noqa: BLE001
        if not several:
            end(error)
        # one of many, maybe on another machine: the others go on, and main() says what is missing
        record_failure(path, error, explained(error))
        print(f"error: {explained(error) or repr(error)}", flush=True)
        return
    failed = results["run"]["failed"]
    if failed and not several:
        raise SystemExit(f"error: {len(failed)} of {len(failed) + results['run']['trajectories']} trajectories failed; the same command runs them again")

    if not several and (why := without_result(results)):
        raise SystemExit(f"error: {why}")


def _resolved(cfg: DictConfig, policy: str) -> Path | str:
    """The run folder of the settings, which are resolved once, in place: `${now:}` would be another time when it is asked again. Or why they do not resolve."""
    try:
        OmegaConf.resolve(cfg)
        return folder_of(cfg, policy)
    except OmegaConfBaseException as error:
        return str(error).splitlines()[0]


def _is_another_rank(cfg: DictConfig) -> bool:
    """Whether torchrun or Slurm started this process beside the one that tells of the run."""
    return cfg.backbone.get("parallel", 1) != 1 and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) != "0"


def _first_line(cfg: DictConfig, choices: dict[str, str], label: str) -> str:
    """What is about to run, for whoever waits. A world that has no such setting counts its trajectories later."""
    count = cfg.world.get("trajectories")
    return f"policy {label} on {choices['world']}{f': {count} trajectories' if count else ''}, backbone {choices['backbone']}"


@entry_point("finished trajectories are kept, the same command goes on")
def main() -> None:
    """Entry point of the script and of the `worldkv run` command."""
    check_packages()
    sys.argv[1:] = arguments = understood(sys.argv[1:])
    # our launcher presets bear the plugins' names, which is what people write; that the plugins then check them is welcome
    warnings.filterwarnings("ignore", message=r"\s*\S+ is validated against ConfigStore schema with the same name", category=UserWarning)
    if asks_for_help(arguments):
        with suppress(HydraException):  # Hydra says below what it cannot compose
            print(help_text(CONF, "config", [a for a in arguments if not a.startswith("-")]), end="")
            return
    check_overrides(CONF, arguments)
    sys.argv[1:] = arguments = with_plugins(arguments)
    asked = Asked.by(arguments)
    if not asked.several or asked.others:
        if not asked.others:
            check_single(arguments)
        _main()
        return
    check_launcher(arguments)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # of the jobs
    try:
        jobs = planned(asked)
    except HydraException:  # Hydra will say it
        jobs = []
    with listening() as folder:
        try:
            _main()
        except (Exception, SystemExit):  # a launcher that lost a job
            conclude(told(folder, jobs))
            raise
        jobs = told(folder, jobs)
        missing = conclude(jobs) if jobs else 1
    if missing:
        raise SystemExit(1 if jobs else "error: no job ran")


if __name__ == "__main__":
    main()
