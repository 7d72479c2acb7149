"""30 SIGKILLs and 10 SIGTERMs at random moments of a run, of -m, of a sweep and of two processes; then the results are those of a run that
nobody touched, to the bit. `make test-kill`, minutes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.environ.get("WORLDKV_KILL") != "1", reason="takes minutes: make test-kill")
LONG = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0", "world.specs=[R90L90R90L90]", "world.repeat=3", "store=disk"]
SWEEP = """program: harness/run.py
command: ["${env}", "${interpreter}", "${program}", name=e, "${args_no_hyphens}"]
method: grid
parameters: {policy: {values: [worldkv, sliding]}}
"""
WAYS = {
    "run": ["run.py", "policy=worldkv", *LONG, "world.trajectories=24", "name=e"],
    "-m": ["run.py", "-m", "policy=worldkv,sliding", *LONG, "world.trajectories=12", "name=e"],
    "sweep": ["sweep.py", "s.yaml", *LONG, "world.trajectories=12"],
    "devices": ["run.py", "policy=worldkv", *LONG, "world.trajectories=48", "name=e", "devices=2"],
}
KILLS = {"run": (8, 3), "-m": (8, 3), "sweep": (7, 2), "devices": (7, 2)}  # SIGKILLs, SIGTERMs


def start(arguments: list[str], cwd: Path) -> subprocess.Popen:
    (cwd / "s.yaml").write_text(SWEEP)
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    code = [sys.executable, str(ROOT / "harness" / arguments[0]), *arguments[1:]]
    return subprocess.Popen(code, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def records(cwd: Path) -> list[Path]:
    return list(cwd.glob("outputs/e/*/trajectories/[!.]*.json"))


def results(cwd: Path) -> dict:
    """By run and trajectory, all that no clock decides."""
    found = {}
    for file in records(cwd):
        record = json.loads(file.read_text())
        values = {k: v for k, v in record["values"].items() if k.startswith(("quality/", "drift/", "pairs", "chunks", "frames"))}
        found[file.parent.parent.name, file.name] = (record["noise"], values, record["pairs"], record["camera"])
    return found


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_lost(way, tmp_path):
    draw, (kills, terms) = random.Random(way), KILLS[way]
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    draw.shuffle(signals)
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = start(WAYS[way], tmp_path / "whole")
    out, _ = whole.communicate(timeout=1800)
    assert whole.returncode == 0, out
    sent, seen = 0, dict[Path, int]()
    for number in signals:
        process = start(WAYS[way], tmp_path / "killed")
        before, until = len(records(tmp_path / "killed")), time.monotonic() + 120
        while process.poll() is None and len(records(tmp_path / "killed")) == before and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(draw.uniform(0, 0.7))
        if process.poll() is not None:
            process.communicate()
            break
        if number == signal.SIGKILL and draw.random() < 0.5:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, _ = process.communicate(timeout=60)
        sent += 1
        if number == signal.SIGTERM:
            assert process.returncode == 143 and "the same command goes on" in out.splitlines()[-1] and "Traceback" not in out, out
            assert not list((tmp_path / "killed").glob("outputs/e/*/bank/*"))
        assert all(p.stat().st_mtime_ns == at for p, at in seen.items()), "a finished trajectory ran again"
        seen = {p: p.stat().st_mtime_ns for p in records(tmp_path / "killed")}
    assert sent >= len(signals) * 0.7, f"it was over after {sent} signals"
    last = start(WAYS[way], tmp_path / "killed")
    out, _ = last.communicate(timeout=1800)
    assert last.returncode == 0, out
    assert results(tmp_path / "killed") == results(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob("outputs/e/*/bank")) and not list((tmp_path / "killed").rglob("error.txt"))
    print(f"{way}: {sent} signals, {len(results(tmp_path / 'whole'))} trajectories, equal to the bit")
