"""Sweeps of the smallest model for the tests: their files, the command in a tree of processes of its own, and how that is killed."""

import os
import signal
from pathlib import Path

import yaml

from tests.commands import Command

TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0"]
COMMAND = ["${env}", "${interpreter}", "${program}", "name=s", "${args_no_hyphens}"]


def sweep_file(folder: Path, parameters: dict, **more) -> Path:
    config = {"program": "harness/run.py", "command": COMMAND, "method": "grid", "parameters": parameters} | more
    (folder / "s.yaml").write_text(yaml.safe_dump(config))
    return folder / "s.yaml"


def command(folder: Path, arguments: list[str]) -> Command:
    return Command("sweep.py", *arguments, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1", "HOME": str(folder)}, session=True)


def kill(process, tree: bool) -> None:
    """SIGKILL the sweep with all its processes, or only the sweep, whose processes must then follow by themselves."""
    try:
        os.killpg(process.pid, signal.SIGKILL) if tree else os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # no tree yet
        os.kill(process.pid, signal.SIGKILL)
