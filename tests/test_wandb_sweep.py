"""The real `wandb sweep` and `wandb agent` run a whole grid, against a stand-in of the server on the loopback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.wandb_stand_in import StandIn

COMMAND = ["${env}", "${interpreter}", "${program}", "name=g", "${args_no_hyphens}"]
TINY = {"backbone": "rooms_tiny", "world": "rooms_tiny", "metric": "tiny", "videos": 0, "threads": 1, "progress": False}
GRID = {"policy": {"values": ["sliding", "worldkv"]}, "seed": {"values": [0, 1]}}


@pytest.fixture
def server():
    stand_in = StandIn()
    yield stand_in
    stand_in.close()


def wandb(*arguments: str, cwd: Path, url: str) -> subprocess.Popen:
    """The W&B command of this environment, which finds our `python` and nobody's account."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1",  # seconds; 15 unless said
        "HOME": str(cwd),
        "OMP_NUM_THREADS": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    line = [sys.executable, "-m", "wandb", *arguments]
    return subprocess.Popen(line, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def offline_configs(run: Path) -> dict:
    """The columns that W&B has of a run, read by its own tool from the offline folder."""
    (folder,) = (run / "wandb").glob("offline-run-*")
    out = subprocess.run([sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)], capture_output=True, text=True, check=True).stdout
    records = (json.loads(line) for line in out.splitlines())
    return next(r["run"]["config"]["update"] for r in records if r["type"] == "run")


def test_two_agents_run_a_whole_grid(tmp_path, server):
    """Both share one experiment folder; every point is run once; columns are those of a run without a sweep."""
    parameters = GRID | {k: {"value": v} for k, v in TINY.items()} | {"logger": {"value": "offline"}}
    config = {"name": "g", "program": str(ROOT / "harness" / "run.py"), "command": COMMAND, "method": "grid", "parameters": parameters}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(config))
    made = wandb("sweep", "--project", "p", "--entity", "e", "g.yaml", cwd=tmp_path, url=server.url)
    out, _ = made.communicate(timeout=120)
    assert made.returncode == 0, out
    assert re.search(r"wandb agent .*sweep1", out), out
    agents = [wandb("agent", "e/p/sweep1", cwd=tmp_path, url=server.url) for _ in range(2)]
    said = [agent.communicate(timeout=300)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert set(server.operations) == {"Viewer", "UpsertSweep", "SweepWithRuns", "CreateAgent", "Heartbeat"}
    points = {(g["args"]["policy"]["value"], g["args"]["seed"]["value"]) for g in server.given}
    assert len(server.given) == len(points) == 4
    assert {g["agent"] for g in server.given} == {"agent0", "agent1"}, "both had work"
    runs = sorted((tmp_path / "outputs" / "g").glob("*/results.json"))
    found = [json.loads(p.read_text())["run"] for p in runs]
    assert {(r["policy"], r["seed"]) for r in found} == points and not any(r["failed"] for r in found), said
    config = offline_configs(runs[-1].parent)
    assert config["policy"] == found[-1]["policy"] and config["seed"] == found[-1]["seed"]
    assert {"policy._target_", "policy.recent", "world.trajectories"} <= config.keys(), "flat, as without a sweep"
    assert not [k for k, v in config.items() if isinstance(v, dict) and k != "_wandb"]
