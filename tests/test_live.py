"""What W&B and others hear of a run while it runs, with W&B's own client against a stand-in of its server."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from harness.evaluation.live import LiveLog
from harness.results.live import FILE, append, rows_since
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.tracking.tracker import Label, followed, running_means, tracker_of
from tests.commands import Command
from tests.conftest import ROOT, make_policy
from tests.test_wandb_sweep import COMMAND, wandb
from tests.wandb_stand_in import StandIn

TINY = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "videos=0", "threads=1", "progress=false")
COUNT = 120  # of trajectories: about 10 seconds, in which a run is heard of and killed
MANY = f"world.trajectories={COUNT}"
METRIC, CONTRAST = "quality/psnr_revisit", "quality/contrast"


@pytest.fixture
def server():
    stand_in = StandIn()
    yield stand_in
    stand_in.close()


def start(cwd: Path, server: StandIn, *arguments: str) -> Command:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {
        "WANDB_BASE_URL": server.url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",  # seconds; 15 unless said
        "HOME": str(cwd),
        "OMP_NUM_THREADS": "1",
    }
    return Command("run.py", "policy=worldkv", *TINY, *arguments, cwd=cwd, env=environment)


def until(condition, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.2)


def noise_and_scores(folder: Path) -> list:
    return [(r.name, r.noise, r.pairs) for r in RunFolder(folder).records()]


def test_a_run_is_heard_of_while_it_runs_and_goes_on_under_its_id_after_a_kill(tmp_path, server):
    def told(key: str) -> list[float]:
        return [row[key] for run in server.runs.values() for row in run.history if key in row]

    first = start(tmp_path, server, MANY, "run_dir=run")
    until(lambda: len(told("live/trajectories")) > 3 and told("live/fps"))
    assert first.poll() is None, "it still runs"
    assert (tmp_path / "run" / FILE).exists() and not (tmp_path / "run" / "results.json").exists()
    first.send_signal(signal.SIGKILL)
    first.wait()
    before, (name,) = len(told("live/trajectories")), server.runs
    out = start(tmp_path, server, MANY, "run_dir=run")
    said, _ = out.communicate(timeout=300)
    assert out.returncode == 0, said
    (run,) = server.runs.values()
    assert run.began == 2 and run.exit_code == 0, said
    assert name == (tmp_path / "run" / "wandb_id.txt").read_text().strip()
    counts = told("live/trajectories")
    assert len(counts) > before and counts[-1] == COUNT and sorted(counts) == counts, "running means go on where they were"
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    last = [row for row in run.history if METRIC in row][-1]
    assert last[METRIC] == pytest.approx(results["summary"][METRIC]["mean"]), "the last running mean is the result"
    assert any("cost/fps" in row for row in run.history), "and the curves over the rollout come at the end"
    assert not (tmp_path / "run" / FILE).exists(), "all is told"
    other = start(tmp_path, server, MANY, "run_dir=other", "logger=none", "live_chunks=0")
    said, _ = other.communicate(timeout=300)
    assert other.returncode == 0, said
    assert noise_and_scores(tmp_path / "run") == noise_and_scores(tmp_path / "other"), "nothing of it changes a result"
    assert not (tmp_path / "other" / FILE).exists()


def test_hyperband_stops_a_bad_point_of_a_sweep(tmp_path, server):
    """The first runs to its end; the second is worse by the metric at the same number of trajectories, and is stopped on its way.

    The metric is contrast, by which views of 20 degrees differ from views of 80, whatever a model is.
    """
    fixed = {k: {"value": yaml.safe_load(v)} for k, v in (a.split("=") for a in (*TINY, "policy=worldkv", "world.trajectories=200", "logger=online"))}
    config = {
        "name": "h",
        "program": str(ROOT / "harness" / "run.py"),
        "command": COMMAND,
        "method": "grid",
        "metric": {"name": CONTRAST, "goal": "maximize"},
        "early_terminate": {"type": "hyperband", "min_iter": 5, "eta": 3},
        "parameters": {"world.fov": {"values": [20, 80]}} | fixed,
    }
    (tmp_path / "h.yaml").write_text(yaml.safe_dump(config))
    made = wandb("sweep", "--project", "p", "--entity", "e", "h.yaml", cwd=tmp_path, url=server.url)
    out, _ = made.communicate(timeout=120)
    assert made.returncode == 0 and re.search(r"wandb agent .*sweep1", out), out
    agent = wandb("agent", "e/p/sweep1", cwd=tmp_path, url=server.url)
    said, _ = agent.communicate(timeout=400)
    assert agent.returncode == 0, said
    good, bad = (server.runs[f"run{i}"] for i in (0, 1))
    assert server.stopped == ["run1"], (server.stopped, said)
    assert len([r for r in good.history if CONTRAST in r]) > len([r for r in bad.history if CONTRAST in r]) >= 5
    folders = sorted((tmp_path / "outputs" / "g").glob("worldkv-*"))
    finished = [p for p in folders if (p / "results.json").exists()]
    (stopped,) = (p for p in folders if p not in finished)
    assert len(finished) == 1 and list((stopped / "trajectories").glob("*.json")), "what it had is in its folder, for whoever wants to go on"


def test_lines_of_a_run_are_read_once_and_whole(tmp_path):
    assert rows_since(tmp_path, 0) == ([], 0), "nothing yet"
    append(tmp_path, {"point": {"live/fps": 1.0}})
    rows, offset = rows_since(tmp_path, 0)
    assert rows == [{"point": {"live/fps": 1.0}}]
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'{"name": "a", "val')
    assert rows_since(tmp_path, offset) == ([], offset), "half a line is none yet"
    with open(tmp_path / FILE, "ab") as file:
        file.write(b'ues": {}}\n\xff\xfe no line of ours\n[1]\n')
    rows, end = rows_since(tmp_path, offset)
    assert rows == [{"name": "a", "values": {}}] and rows_since(tmp_path, end) == ([], end)


class Listener:
    """A tracker that keeps what it is told. slow: seconds that its begin takes."""

    def __init__(self, slow: float = 0.0) -> None:
        self.rows, self.ended, self.slow = [], [], slow

    def begin(self) -> None:
        time.sleep(self.slow)

    def log(self, row) -> None:
        self.rows.append(row)

    def finish(self, results):
        self.ended.append(results)


def test_a_follower_tells_means_over_all_that_is_finished_and_that_a_run_failed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write(Record("a", {METRIC: 10.0, "cost/fps": 3.0}))
    listener = Listener(slow=0.3)
    with followed(listener, folder):
        append(tmp_path, {"name": "b", "error": "", "values": {METRIC: 20.0}})
        append(tmp_path, {"name": "c", "error": "NaN", "values": {}})
    assert listener.rows == [{"live/trajectories": 2, METRIC: 15.0}] and not listener.ended
    with pytest.raises(KeyboardInterrupt), followed(listener, folder):
        raise KeyboardInterrupt
    assert listener.ended == [None]
    assert running_means({}) == {}


def test_a_run_that_is_stopped_does_not_wait_for_a_tracker_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.tracking.tracker.BROKEN_OFF", 0.2)
    awake = threading.Event()

    class Hanging:
        def begin(self) -> None:
            awake.wait(60)

        def log(self, row: dict[str, float]) -> None: ...

        def finish(self, results: dict | None) -> str | None:
            awake.wait(60)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), followed(Hanging(), RunFolder(tmp_path)):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 20
    awake.set()


def test_trackio_keeps_a_run_on_this_machine(tmp_path):
    """In a process of its own, since Trackio reads where it keeps its runs when it is imported."""
    script = f"""
import sys
from harness.evaluation.python import evaluate
run = evaluate("worldkv", *{TINY!r}, "logger=trackio", "live_chunks=2", "run_dir=run", quiet=False)
import trackio
found = trackio.Api().runs("worldkv-harness")
(one,) = found
rows = one.history() if hasattr(one, "history") else []
print("ROWS", len(rows))
"""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio"), "HOME": str(tmp_path)}
    out = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert out.returncode == 0, out.stdout + out.stderr
    assert "Trackio: trackio show --project worldkv-harness" in out.stdout
    (database,) = (tmp_path / "trackio").glob("worldkv-harness*.db")
    import sqlite3

    with sqlite3.connect(database) as connection:
        metrics = [json.loads(row[0]) for row in connection.execute("select metrics from metrics")]
    assert any(METRIC in row for row in metrics) and any("live/fps" in row for row in metrics)


def test_a_tracker_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[trackio\]'"):
        tracker_of("trackio", RunFolder(tmp_path), {}, Label("e", "n"), False)


def test_a_point_is_of_one_trajectory(tmp_path, roll):
    """What a trajectory left at its end, or where it failed, is a point of its own; short ones have one each."""
    stats = [replace(s, forced=False) for s in roll(make_policy("sliding")).stats[:6]]
    live = LiveLog(tmp_path, 4)
    for name in ("a", "b"):
        for one in stats:
            live.chunk(name, one)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [(r["name"], r["point"]["live/chunk"]) for r in rows] == [("a", 3), ("a", 5), ("b", 3)]
