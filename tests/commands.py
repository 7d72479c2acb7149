"""Commands as processes of their own that need not import everything anew: they are forked from one that has. A start of `run.py` takes
9 s of imports else, and the suite starts a hundred. What a command imports, and when, is tested in real processes (test_startup.py)."""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SWEEP = str(ROOT / "tests" / "forked_sweep.py")  # in place of sweep.py, where how points are started is not the question
PRELOADED = [  # not wandb: whoever imports it removes its folder of temporary files at his end, also for those that he was forked from
    "backbones.rooms",
    "harness.evaluation.callbacks",
    "harness.evaluation.evaluate",
    "harness.evaluation.live",
    "harness.evaluation.probes",
    "harness.reporting.media",  # whose matplotlib looks for fonts in every new HOME
    "harness.sweeping.local",
    "hydra",
    "lightning",
    "torchmetrics.image",
]


class Command:
    """`python harness/SCRIPT ARGUMENTS`, with the part of `subprocess.Popen` that tests use. Output and errors go to one text."""

    def __init__(self, script: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, session: bool = False) -> None:
        self.args = [script, *arguments]
        handle, name = tempfile.mkstemp(prefix="command", suffix=".txt")
        os.close(handle)
        self._output = Path(name)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        line = [str(ROOT / "harness" / script), *map(str, arguments)]
        self._process = context.Process(target=_run, args=(line, str(cwd), dict(os.environ if env is None else env), name, session))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0, self.output)
        return self._process.exitcode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it said, once it has ended."""
        self.wait(timeout)
        return self.output, None

    def until(self, there: Callable[[], object], seconds: float = 120) -> None:
        """Wait for what it does while it runs."""
        end = time.monotonic() + seconds
        while not there():
            assert self.poll() is None, self.output
            assert time.monotonic() < end, "it never came so far"
            time.sleep(0.02)

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._output.read_text(errors="replace")


def _run(line: list[str], cwd: str, env: dict[str, str], output: str, session: bool) -> None:
    """In the new process: what the shell and the interpreter do for a command."""
    if session:
        os.setsid()
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    said = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = line
    sys.path[0:0] = [str(Path(line[0]).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        runpy.run_path(line[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends without them
        sys.stdout.flush()
        sys.stderr.flush()


def ended(script: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 300) -> tuple[int, str]:
    """Exit status and output of a command that ends by itself."""
    command = Command(script, *arguments, cwd=cwd, env=env)
    said, _ = command.communicate(timeout)
    assert command.returncode is not None
    return command.returncode, said
