"""20 kills of a random rank of a rollout that several share, which goes on with another number of ranks each time. `make test-kill`, minutes."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.kill.test_kill import records, results, start

pytestmark = pytest.mark.skipif(os.environ.get("WORLDKV_KILL") != "1", reason="takes minutes: make test-kill")
KILLS, ENDS_WITHIN = 20, 45.0  # seconds, on a machine that does other work too
TOY = "backbone.sizes={dim: 48, heads: 4, layers: 2, ffn: 32, context_dim: 8}"
RUN = [
    "run.py", "policy=worldkv", "backbone=lingbot", "backbone.weights=random", "backbone.device=cpu", "backbone.dtype=float32", "backbone.size=[32,32]", TOY,
    "world.size=[32,32]", "world.trajectories=60", "world.repeat=3", "store=disk", "metric=tiny", "logger=none", "videos=0", "name=e",
]  # fmt: skip


def companions(pid: int) -> list[int]:
    """Processes that rank 0 has started as ranks."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "spawn_main"], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in found.split()]


def gone(pids: list[int], until: float) -> bool:
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1] for pid in pids):
            return True
        time.sleep(0.2)
    return False


def test_a_rank_that_dies_ends_all_and_the_run_goes_on(tmp_path):
    draw = random.Random("ranks")
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = start([*RUN, "backbone.parallel=1"], tmp_path / "whole")
    out, _ = whole.communicate(timeout=900)
    assert whole.returncode == 0, out
    kept: dict[Path, int] = {}
    kills = 0
    for kill in range(KILLS):
        size = draw.choice([2, 4])
        process = start([*RUN, f"backbone.parallel={size}"], tmp_path / "killed")
        until = time.monotonic() + 120
        while len(companions(process.pid)) < size - 1 and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        if kill % 2:  # while trajectories are made; else wherever it is, in its imports mostly
            while len(records(tmp_path / "killed")) == len(kept) and process.poll() is None:
                time.sleep(0.05)
            time.sleep(draw.uniform(0, 2))
        else:
            time.sleep(draw.uniform(0, 15))
        others = companions(process.pid)
        if process.poll() is not None:
            break  # it was faster
        victim = draw.choice([process.pid, *others])
        os.kill(victim, signal.SIGKILL)
        began = time.monotonic()
        assert gone([process.pid, *others], began + ENDS_WITHIN), f"kill {kill}: ranks are still there {ENDS_WITHIN} s after one was killed"
        out, _ = process.communicate(timeout=10)
        if victim != process.pid:
            line = out.strip().splitlines()[-1]
            assert process.returncode == 1 and line.startswith("error: rank ") and "signal 9" in line, out
            assert "Traceback" not in out, out
        now = {file: file.stat().st_mtime_ns for file in records(tmp_path / "killed")}
        assert all(now.get(file) == then for file, then in kept.items()), "a finished trajectory was made again"
        kept, kills = now, kill + 1
        which = "rank 0" if victim == process.pid else "another rank"
        print(f"kill {kill}: {which} of {size}, all ended in {time.monotonic() - began:.1f} s, {len(kept)} trajectories kept")
    assert kills >= 0.7 * KILLS, f"it was over after {kills} kills"
    last = start([*RUN, "backbone.parallel=2"], tmp_path / "killed")
    out, _ = last.communicate(timeout=900)
    assert last.returncode == 0, out
    mine, theirs = results(tmp_path / "killed"), results(tmp_path / "whole")
    assert mine.keys() == theirs.keys() and len(mine) == 60
    for key, (noise, values, *_) in mine.items():
        assert noise == theirs[key][0]
        assert values == pytest.approx(theirs[key][1], abs=2e-3), key  # dB; float32 sums in another order
