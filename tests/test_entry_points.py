"""Every command ends as it should: one line for a mistake, an exit status that tells the truth, and signals obeyed at once."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from harness.evaluation.progress import ProgressLines, clock
from harness.settings.entry_point import entry_point
from harness.system.stopping import Stopped, stoppable
from tests.commands import Command
from tests.conftest import ROOT

TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0"]
LONG = [*TINY, "world.trajectories=40", "world.specs=[R90L90R90L90]", "world.repeat=4", "store=disk", "name=e"]
SIGNALS = {signal.SIGTERM: 143, signal.SIGINT: 130}


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("policy.sink=-1; give 0 or more"), 1, "error: policy.sink=-1; give 0 or more\n"),
        (FloatingPointError("NaN in chunk 3"), 1, "error: NaN in chunk 3\n"),
        (FileNotFoundError("no weights at w; run harness/train.py"), 1, "error: no weights at w; run harness/train.py\n"),
        (OSError(errno.ENOSPC, "No space left on device", "r/x.png"), 1, "error: r/x.png: No space left on device; free some space"),
        (OSError(errno.EROFS, "Read-only file system", "r/x.png"), 1, "error: r/x.png: Read-only file system; the file system is read-only: choose another"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "r/x.png"), 1, "error: r/x.png: Disk quota exceeded; the quota is used up"),
        (OSError(errno.ENOSPC, "could not write r: No space left on device; do this"), 1, "error: could not write r: No space left on device; do this\n"),
        (MemoryError(), 1, "error: out of memory (host); use smaller sizes"),
        (torch.OutOfMemoryError("tried to allocate 3 GiB"), 1, "error: out of memory (tried to allocate 3 GiB); use"),
        (Stopped(signal.SIGTERM), 143, "stopped by SIGTERM; the same command goes on\n"),
        (Stopped(signal.SIGINT), 130, "stopped by Ctrl-C; the same command goes on\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C; the same command goes on\n"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, BaseException) else "",
)
def test_a_mistake_is_one_line_and_a_status(error, status, said, capsys):
    @entry_point("the same command goes on")
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == status
    assert err.startswith(said) and err.count("\n") == 1, "one line"


def test_a_fault_of_the_program_shows_where_it_is(capsys):
    @entry_point("")
    def main() -> None:
        raise TypeError("'<' not supported")

    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 1 and "Traceback" in err and "this is a fault of the program, please report it" in err.splitlines()[-1]
    assert f"raised in {__file__}:" in err.splitlines()[-1], "whose code it is in"


def test_a_signal_is_raised_once_and_handlers_come_back():
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(Stopped) as stopped, stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # as process groups send it twice: clearing up goes on
            time.sleep(0.01)
    assert stopped.value.status == 143
    assert [signal.getsignal(n) for n in SIGNALS] == before
    seen: list[int] = []

    def elsewhere() -> None:
        with stoppable():
            seen.append(1)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen, "a thread cannot take signals, and does not fail for it"


def test_whoever_reads_no_further_is_no_error(tmp_path):
    code = "from harness.settings.entry_point import entry_point\n@entry_point('')\ndef main():\n    [print('x' * 1000) for _ in range(10000)]\nmain()"
    out = subprocess.run(f'{sys.executable} -c "{code}" | head -1; echo ${{PIPESTATUS[0]}}', shell=True, executable="/bin/bash", capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "141" and not out.stderr


def start(script: str, *arguments: str, cwd: Path) -> Command:
    return Command(script, *arguments, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


SWEEP = """program: harness/run.py
command: ["${env}", "${interpreter}", "${program}", name=e, "${args_no_hyphens}"]
method: grid
parameters: {policy: {values: [full, worldkv]}}
"""
TRAIN = [
    "out=t", "device=cpu", "precision=32-true", "workers=0", "world.size=16", "codec.channels=4", "codec.width=4", "codec.unique=4", "terms.perceptual=0.0",
    "codec.validation={chunks: 1, walk_chunks: 1, batch: 1, steps: 1}", "codec.phases=[{chunks: 1, walk_chunks: 1, batch: 1, steps: 100000}]",
]  # fmt: skip
STOPPED = [  # script, arguments, what is there once it works, what it says
    ("run.py", ["policy=worldkv", *LONG], "outputs/e/*/bank/*/*", "finished trajectories are kept, the same command goes on"),
    ("run.py", ["policy=worldkv", *LONG, "devices=2"], "outputs/e/*/bank/*/*", "finished trajectories are kept, the same command goes on"),
    ("run.py", ["-m", "policy=worldkv,full", *LONG], "outputs/e/*/bank/*/*", "finished trajectories are kept, the same command goes on"),
    ("sweep.py", ["s.yaml", "jobs=1", *LONG[:-1]], "outputs/e/*/bank/*/*", "finished trajectories are kept, the same command goes on"),
    ("train.py", TRAIN, "t/codec/log_from_*/*", "the same command goes on from its last checkpoint"),
    ("replay.py", ["world.trajectories=500", "world.size=[16,16]"], "", "run it again"),
    ("calibrate.py", ["labels=l.json", *LONG[:3], "world.trajectories=500", "world.repeat=4"], "", "nothing was written"),
]


CASES = [(signal.SIGTERM, *case) for case in STOPPED] + [(signal.SIGINT, *STOPPED[0]), (signal.SIGINT, *STOPPED[4])]


@pytest.mark.parametrize(("number", "script", "arguments", "works", "said"), CASES, ids=[f"{n.name} {s} {' '.join(a)[:20]}" for n, s, a, _, _ in CASES])
def test_a_signal_ends_it_within_a_chunk(number, script, arguments, works, said, tmp_path):
    """Nothing is lost, nothing is left: no bank's files, no half-written ones, no process."""
    (tmp_path / "s.yaml").write_text(SWEEP)
    process = start(script, *arguments, cwd=tmp_path)
    process.until(lambda: any(tmp_path.glob(works)) if works else process.output)
    process.send_signal(number)
    sent = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == SIGNALS[number], out
    assert time.monotonic() - sent < 15
    assert "Traceback" not in out, out
    assert out.strip().splitlines()[-1] == f"stopped by {'SIGTERM' if number == signal.SIGTERM else 'Ctrl-C'}; {said}"
    assert not list(tmp_path.glob("outputs/e/*/bank")) and not list(tmp_path.rglob(".*.partial*"))
    until = time.monotonic() + 10  # those that were started for others see that these have ended
    while _processes(tmp_path) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _processes(tmp_path), "it left processes behind"


def _processes(cwd: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve() == cwd.resolve():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_a_run_with_a_failed_trajectory_fails_and_says_so_last(tmp_path):
    from backbones.rooms import TinyRoomsBackbone, pack, save_weights

    tiny = TinyRoomsBackbone()
    tiny.network.head.bias.data.fill_(float("nan"))
    network = {"width": 64, "layers": 3, "heads": 2, "mlp": 2}
    config = {"grid": [2, 3], "chunk": 3, "levels": [1.0, 0.7], "codec": {"channels": 4, "width": 4}, "network": network}
    save_weights(tmp_path / "nan.safetensors", config, pack(tiny.codec, tiny.network))
    arguments = ["policy=sliding", *TINY[1:], "backbone=rooms", "backbone.weights=nan.safetensors", "run_dir=r"]
    process = start("run.py", *arguments, cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in out, out
    assert out.strip().splitlines()[-1] == "error: 2 of 2 trajectories failed; the same command runs them again"
    assert re.search(r"failed: test0000_R_L90: .*NaN or infinity in chunk", out)


def test_without_a_terminal_progress_is_a_line_every_so_often(monkeypatch):
    now, lines = [100.0], list[str]()
    monkeypatch.setattr("harness.evaluation.progress.time.monotonic", lambda: now[0])

    class Trainer:
        world_size, global_rank = 1, 0

    class Module:
        chunks = 10

    class Stats:
        frames_px, seconds = 3, 0.5

        def __init__(self, chunk: int) -> None:
            self.chunk, self.forced = chunk, chunk == 0

    progress = ProgressLines(5, 1, lines.append)
    progress.on_predict_start(Trainer(), Module())
    for trajectory in range(4):
        for chunk in range(10):
            now[0] += 5.0
            progress.observe(f"t{trajectory}", Stats(chunk))
        progress.on_predict_batch_end(None, None, None, None, None)
    assert lines[0] == "1/5 trajectories, t0 chunk 1/10: given, about 0:03:15 left", "something at once, and how long it takes"
    assert lines[1] == "1/5 trajectories, t0 chunk 7/10: 6.0 fps, about 0:02:45 left"
    assert len(lines) == 7, "200 s: one every 30 s"
    assert clock(3725.2) == "1:02:05"


def test_the_log_of_a_run_is_not_empty(tmp_path):
    process = start("run.py", "policy=sliding", *TINY, "run_dir=r", cwd=tmp_path)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert re.search(r"^0/2 trajectories, test0000_R_L90 chunk 1/\d+: given, about 0:\d\d:\d\d left$", out, re.M), out
    again, _ = start("run.py", "policy=sliding", *TINY, "run_dir=q", "progress=false", cwd=tmp_path).communicate(timeout=120)
    assert "chunk 1/" not in again
