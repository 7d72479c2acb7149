"""A grid on a real Slurm of two nodes, one of which dies in the middle: make test-slurm (installs Debian packages, needs root)."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from harness.evaluation.multirun import Asked, planned
from tests.conftest import ROOT
from tests.slurm.cluster import NODES, Cluster, install, remove

pytestmark = [
    pytest.mark.skipif(os.environ.get("WORLDKV_SLURM") != "1", reason="opt-in: make test-slurm"),
    pytest.mark.filterwarnings("ignore:\\s*\\S+ is validated against ConfigStore schema"),
]
TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=1", "threads=1", "progress=false", "name=s"]
LONG = ["world.trajectories=8", "world.specs=[R90L90R90L90]"]
GRID = ["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "policy=full,sliding,worldkv", "seed=0,1"]


@pytest.fixture
def cluster():
    if os.geteuid() != 0:
        pytest.skip("the daemons of a cluster run as root")
    installed = install()
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:  # short: the path of a socket has at most 108 characters
        made = Cluster(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()
            remove(installed)


def records(run: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in run.glob("trajectories/[!.]*.json")}


def test_a_grid_survives_the_death_of_a_node_and_a_preemption(tmp_path, cluster, monkeypatch):
    """Six runs on two nodes. One job is queued again as by preemption; then the node of another dies. All results, each once."""
    monkeypatch.chdir(tmp_path)
    arguments = [*GRID, *TINY, *LONG]
    runs = [job.path for job in planned(Asked.by(arguments))]
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "harness" / "run.py"), *arguments]
    environment = cluster.environment | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    used: set[str] = set()

    def midway(node: str, *others: str) -> str:
        """Wait for a job on `node` that has finished some of its trajectories and not all. Returns its array task."""
        while process.poll() is None:
            now = cluster.running()
            used.update(now)
            task = now.get(node, "")
            if task and task not in others and 2 <= len(records(runs[int(task.split("_")[1])])) < 7:
                return task
            time.sleep(0.1)
        pytest.fail(f"the grid ended before a job was midway on {node}:\n{process.communicate()[0]}")

    first = midway("n1")
    cluster.ask("scontrol", "requeue", first)
    second = midway("n2", first)
    before = {p: at for run in runs for p, at in records(run).items()}
    killed = cluster.kill_node("n2")
    died = time.monotonic()
    out, _ = process.communicate(timeout=480)
    restarts = {t: int(re.search(r"Restarts=(\d+)", cluster.ask("scontrol", "show", "job", t))[1]) for t in (first, second)}
    print(f"{len(runs)} runs, {time.monotonic() - began:.0f} s in all, node killed ({killed} processes) after {died - began:.0f} s, restarts {restarts}")
    print(out[-3000:])
    assert process.returncode == 0, out
    assert "6 of 6 runs are finished" in out and "worldkv" in out.split("cost on")[-1]
    assert used == set(NODES), "both nodes worked"
    assert restarts[first] >= 1 and restarts[second] >= 1
    assert cluster.ask("sinfo", "-h", "-n", "n2", "-o", "%T").strip().startswith("down")
    found = {}
    for results in (tmp_path / "outputs" / "s").glob("*/results.json"):
        about = json.loads(results.read_text())["run"]
        assert about["failed"] == {} and about["trajectories"] == 8
        rows = [json.loads(line)["name"] for line in (results.parent / "trajectories.jsonl").read_text().splitlines()]
        assert len(rows) == len(set(rows)) == len(records(results.parent)) == 8, "every trajectory once"
        found[about["policy"], about["seed"]] = results.parent.resolve()
    assert set(found) == {(p, s) for p in ("full", "sliding", "worldkv") for s in (0, 1)}
    assert sorted(found.values()) == sorted(r.resolve() for r in runs), "every result once"
    assert all(p.stat().st_mtime_ns == at for p, at in before.items()), "what was on disk when the node died did not run again"
