"""What W&B is told of a run, and that it cannot fail or hold up one: against a stand-in that is down, slow or broken."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from harness.reporting.columns import columns_of
from harness.reporting.curves import means
from harness.results.recall import recall_curves
from harness.results.run_folder import RunFolder
from harness.settings.command_line import CONF, composed
from harness.tracking.wandb_run import PAIRS, PICTURES, Label, _run_id, files_of, log_to_wandb, pair_table, recall_charts
from harness.tracking.wandb_server import answers, logged_in
from tests.wandb_stand_in import StandIn

CONFIG = {"policy": "worldkv", "world": "rooms_tiny", "backbone": "rooms_tiny", "policy.retrieved": 6}
SETTINGS = ["policy=worldkv", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=1", "threads=1", "progress=false"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict]:
    """A finished run's folder and results."""
    from harness.evaluation.evaluate import evaluate

    path = tmp_path_factory.mktemp("w") / "run"
    cfg, choices = composed(CONF, [*SETTINGS, f"run_dir={path}"])
    return path, evaluate(cfg, choices, "worldkv", compare=False)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Nobody is logged in here, and the environment says nothing."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def told(where: str) -> tuple[dict, dict, list[dict]]:
    """Config, summary and history of an offline run, read by W&B's own tool."""
    folder = Path(where)
    out = subprocess.run([sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)], capture_output=True, text=True, check=True).stdout
    rows = [json.loads(line) for line in out.splitlines()]
    (folder / "said.json").write_text(out)
    config = next(r["run"]["config"]["update"] for r in rows if r["type"] == "run")
    summary: dict = {}
    for r in rows:
        summary |= r["summary"]["update"] if r["type"] == "summary" else {}
    return config, summary, [r["history"]["item"] for r in rows if r["type"] == "history"]


def test_a_run_is_mirrored_whole(made, home):
    path, results = made
    label = Label("e", "worldkv-0", ("mine",), "what I tried")
    where = log_to_wandb(RunFolder(path), results, CONFIG, "auto", label)
    assert where and "offline-run" in where, "not logged in: offline"
    config, summary, history = told(where)
    said = (Path(where) / "said.json").read_text()
    assert {k: config[k] for k in CONFIG} == CONFIG
    for key, entry in results["summary"].items():
        assert summary[key] == pytest.approx(entry["mean"]), f"{key}: the run's mean, and not the last point of a curve"
    assert summary["setting/policy_retrieved"] == 6 and summary["cost/bank_bytes"] == summary["cost/bank_bytes_gpu"]
    for name in (PAIRS, *PICTURES.values()):
        assert name not in results["summary"], "a number of this name would take the place of the table or the picture"
        assert any(key.startswith(f"{name}.") for key in summary), name
    frames = [h["frame"] for h in history if "cost/fps" in h]
    assert frames == sorted(set(frames)) and len(frames) > 2
    for text in ('"e"', "worldkv-0", "mine", "what I tried", "eval"):
        assert text in said, text
    assert len(list((Path(where) / "files" / "media").rglob("*.mp4"))) == 2
    assert means([]) == []


def test_the_printed_path_is_what_wandb_sync_takes(made, home):
    path, results = made
    where = log_to_wandb(RunFolder(path), results, CONFIG, "offline", Label("e", "sync"))
    assert where and list(Path(where).glob("run-*.wandb"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    for folder, answer in ((where, "Would sync 1 run"), (f"{where}/files", "No runs to sync")):
        command = [sys.executable, "-m", "wandb", "sync", "--dry-run", folder]
        said = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert answer in said.stdout + said.stderr, said.stdout + said.stderr


def test_a_run_that_is_made_again_is_no_second_one(made, home, monkeypatch):
    """overwrite=true clears the folder and keeps its id; two folders have two; an agent gives its own."""
    path, results = made

    def id_of(folder: RunFolder) -> str:
        where = log_to_wandb(folder, results, CONFIG, "offline", Label("e", "again"))
        assert where
        return Path(where).name.rpartition("-")[2]

    first = id_of(RunFolder(path))
    copy = home / "copy"
    shutil.copytree(path, copy)
    RunFolder(copy).clear()
    assert id_of(RunFolder(copy)) == first
    (copy / "wandb_id.txt").unlink()
    assert id_of(RunFolder(copy)) != first
    monkeypatch.setenv("WANDB_RUN_ID", "ofanagent")
    assert _run_id(copy) is None, "the agent's, which W&B reads itself"


def test_recall_curves_are_charts_of_their_own():
    """A line a score and axis; a run without probes has none."""
    curves = recall_curves([[{"gap": 4, "metres": 0.2, "psnr": 20.0}], [{"gap": 9, "metres": 3.0, "psnr": 24.0}]])
    charts = recall_charts({"curves": curves})
    assert list(charts) == ["curve/recall_psnr_gap", "curve/recall_psnr_metres"]
    assert charts["curve/recall_psnr_gap"].table.data == [[4, 20.0, None, None, 1], [8, 24.0, None, None, 1]]
    assert not recall_charts({})


def test_the_table_shows_every_pair(made):
    """Pictures of the trajectories that have videos, scores of all; the difference is of the very two pictures beside it."""
    table = pair_table(RunFolder(made[0]), columns_of([made[1]]))
    records = RunFolder(made[0]).records()
    assert table is not None and len(table.data) == sum(len(r.pairs) for r in records)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.data]
    assert {"PSNR revisit (dB)", "SSIM revisit", "gap (frames)"} <= rows[0].keys()
    for row in rows:
        seen = [row[k] for k in ("first visit", "revisit", "difference")]
        assert all(seen) if row["trajectory"] == records[0].name else not any(seen)
    pair = min(records[0].pairs, key=lambda r: r["revisit"])
    assert (rows[0]["first"], rows[0]["again"], rows[0]["PSNR revisit (dB)"], rows[0]["gap (frames)"]) == (
        pair["first"],
        pair["revisit"],
        pair["psnr_revisit"],
        pair["gap_frames"],
    )
    first, revisit, difference = (np.asarray(rows[0][k].image).astype(int) for k in ("first visit", "revisit", "difference"))
    assert np.abs((127.5 + revisit - first).clip(0, 255) - difference).mean() < 12, "as far as H.264 goes"


def test_the_artifact_is_the_run_folder(made):
    names = {str(p.relative_to(made[0])) for p in files_of(made[0])}
    assert {"config.yaml", "results.json", "pairs.csv", "chunks.csv", "trajectories.jsonl", "frames.png"} <= names
    assert any(n.startswith("videos/") for n in names) and any(n.startswith("trajectories/") for n in names)
    assert not [n for n in names if n.startswith("wandb") or "/." in n]


@pytest.mark.parametrize("mood", ["refuses", "error", "hang", "late error", "late hang"])
def test_a_server_that_is_down_slow_or_broken_costs_a_bounded_wait_and_nothing_else(made, home, monkeypatch, mood, caplog):
    path, results = made
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file() and "wandb" not in p.parts}
    server = StandIn(mood)
    if mood == "refuses":
        server.close()
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert logged_in()
    began = time.monotonic()
    where = log_to_wandb(RunFolder(path), results, CONFIG, "auto", Label("e", mood))
    took = time.monotonic() - began
    server.close() if mood != "refuses" else None
    print(f"{mood}: {took:.1f} s, {where}")
    assert where and "offline-run" in where, "kept for `wandb sync`"
    assert took < 45, f"{mood}: waited {took:.0f} s"
    assert "offline" in caplog.text
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize("mode", ["online", "auto"])
def test_nobody_is_asked_for_a_key(made, home, monkeypatch, mode):
    path, results = made
    monkeypatch.setenv("WANDB_MODE", "online" if mode == "auto" else "")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a prompt"))
    where = log_to_wandb(RunFolder(path), results, CONFIG, mode, Label("e", mode))
    assert where and "offline-run" in where


def test_a_client_of_wandb_that_dies_costs_no_run(made, home, caplog):
    """W&B's own process is killed while a run goes on: the run is kept offline by another one. In a process of its own, as pytest's has one."""
    path, _ = made
    shutil.copytree(path, home / "run", ignore=shutil.ignore_patterns("wandb"))
    script = f"""
import os, signal, subprocess, time
from pathlib import Path
from harness.results.run_folder import RunFolder
from harness.tracking.wandb_run import Label, WandbTracker
folder = RunFolder(Path({str(home / "run")!r}))
tracker = WandbTracker(folder, {CONFIG!r}, "offline", Label("e", "dies"))
tracker.begin()
tracker.log({{"live/fps": 1.0}})
children = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"], capture_output=True, text=True).stdout.split()
assert children, "W&B's own process"
for child in children:
    os.kill(int(child), signal.SIGKILL)
time.sleep(1)
print("WHERE", tracker.finish(folder.results()))
"""
    alone = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}  # else it would use the W&B process of these tests
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False, env=alone)
    where = next((line.removeprefix("WHERE ") for line in out.stdout.splitlines() if line.startswith("WHERE")), "")
    assert "offline-run" in where, out.stdout + out.stderr
    assert told(where)[1]["quality/psnr_revisit"] == pytest.approx(made[1]["summary"]["quality/psnr_revisit"]["mean"])


def test_an_address_that_speaks_no_http_is_a_server_that_cannot_be_used():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def greet() -> None:
            connection, _ = other.accept()
            connection.recv(1000)
            connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        assert answers(f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert answers("http://localhost:80a")
