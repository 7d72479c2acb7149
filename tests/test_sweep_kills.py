"""The local runner of sweeps: its kills, its failures, and several writers at once. Everything runs on the tiny backbone."""

import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest

from harness.sweeping.local import PRELOADED, Runner, options
from tests.sweep_files import TINY, command, kill, sweep_file

LONG = [*TINY, "world.trajectories=5", "world.specs=[R90L90R90L90]"]
SLOW = os.environ.get("WORLDKV_SLOW") == "1"  # kill the real command ten times: minutes
KILLS = 10 if SLOW else 4


@pytest.fixture(scope="module")
def forks():
    """Processes that are forks of one that has imported everything: seconds less for each."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, "tests.conftest", "tests.test_sweep_kills"])
    return context


def _round(folder: str, arguments: list[str]) -> None:
    """The runner as main() starts it, but with forks of this process."""
    os.setsid()  # a tree of its own, to be killed
    os.chdir(folder)
    chosen = options(arguments)
    os._exit(Runner(chosen, Path("outputs/s"), multiprocessing.get_context("fork")).run())


def outcome(folder: Path) -> dict[str, object]:
    """All that a sweep found, less what the clock and the machine decide."""
    found: dict[str, object] = {}
    for run in sorted(p for p in (folder / "outputs" / "s").iterdir() if p.is_dir()):
        if (run / "error.txt").exists():
            found[run.name] = (run / "error.txt").read_text().strip().splitlines()[-1]
            continue
        results = json.loads((run / "results.json").read_text())
        summary = {k: v for k, v in results["summary"].items() if not k.startswith(("cost/fps", "cost/latency", "cost/share", "cost/peak"))}
        rows = [json.loads(line) for line in (run / "trajectories.jsonl").read_text().splitlines()]
        records = [json.loads(p.read_text()) for p in sorted((run / "trajectories").glob("[!.]*.json"))]
        assert [r["name"] for r in rows] == [r["name"] for r in records], "every trajectory once"
        assert [{"name": r["name"], "error": "", **r["values"]} for r in records] == rows, "tables and records are of one run"
        pairs = (run / "pairs.csv").read_text()
        found[run.name] = (summary, results["run"]["noise"], pairs, [r["pairs"] for r in records])
    return found


GRID = {"policy": {"values": ["sliding", "sink_recent"]}, "policy.recent": {"values": [12, 9]}}


def test_a_sweep_killed_several_times_ends_with_the_results_of_an_undisturbed_one(tmp_path, forks):
    """SIGKILL at random moments: before anything, between points, within trajectories. Nothing is lost, nothing runs twice."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = [str(sweep_file(tmp_path, GRID)), "jobs=2", *LONG]
    for folder in (whole, killed):
        folder.mkdir()
    undisturbed = command(whole, arguments)
    rng, kills, written = random.Random(7), 0, []
    while kills < KILLS:
        before = len(list(killed.glob("outputs/s/*/trajectories/[!.]*.json")))
        process = command(killed, arguments) if SLOW else forks.Process(target=_round, args=(str(killed), arguments))
        if not SLOW:
            process.start()
        alive = process.is_alive if not SLOW else lambda p=process: p.poll() is None
        while alive() and kills % 2 and len(list(killed.glob("outputs/s/*/trajectories/[!.]*.json"))) == before:
            time.sleep(0.01)  # every second kill comes soon after a trajectory was finished
        time.sleep(rng.uniform(0, 0.5 if kills % 2 else 8 if SLOW else 1.5))
        if not alive():
            break
        kill(process, tree=rng.random() < 0.7)
        process.wait() if SLOW else process.join()
        kills += 1
        written.append({p: p.stat().st_mtime_ns for p in killed.glob("outputs/s/*/trajectories/[!.]*.json")})
    assert kills == KILLS, f"the sweep was over after {kills} kills: {len(written[-1])} trajectories"
    assert KILLS // 2 <= len(written[-1]) < 20, "the kills came too early or too late to show anything"
    last = forks.Process(target=_round, args=(str(killed), arguments))
    last.start()
    last.join()
    assert last.exitcode == 0
    out, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, out
    assert out.count("quality/psnr_revisit ") >= 4 and "[4/4]" in out and "results: outputs/s" in out
    assert outcome(killed) == outcome(whole)
    assert len(outcome(whole)) == 4
    for earlier in written:
        assert all(p.stat().st_mtime_ns == at for p, at in earlier.items()), "a finished trajectory ran again"


def test_a_failing_point_is_recorded_and_the_rest_goes_on(tmp_path, forks):
    grid = {"policy": {"values": ["worldkv", "worldvk"]}, "policy.sink": {"values": [3, -1]}}
    arguments = [str(sweep_file(tmp_path, grid)), "jobs=2", *TINY]

    def again() -> int:
        process = forks.Process(target=_round, args=(str(tmp_path), arguments))
        process.start()
        process.join()
        return process.exitcode

    assert again() == 3, "one point fails as it runs, two have no config"
    errors = sorted((tmp_path / "outputs" / "s").glob("*/error.txt"))
    assert [p.parent.name.split("-")[0] for p in errors] == ["invalid", "invalid", "worldkv"]
    assert "Traceback" in errors[2].read_text() and "policy.sink=-1: use a whole number from 0" in errors[2].read_text().splitlines()[-1]
    assert "worldvk" in errors[0].read_text() and "sliding" in errors[0].read_text(), "the options are listed"
    (good,) = (tmp_path / "outputs" / "s").glob("*/results.json")
    at = good.stat().st_mtime_ns
    assert json.loads((good.parent / "point.json").read_text())["parameters"] == {"policy": "worldkv", "policy.sink": 3}
    assert again() == 3, "failed points are tried again"
    assert good.stat().st_mtime_ns == at, "good ones are not"


def _evaluate(folder: str, begin) -> None:
    from harness.evaluation.evaluate import evaluate
    from harness.settings.command_line import CONF, composed

    os.chdir(folder)
    cfg, choices = composed(CONF, ["policy=worldkv", *TINY, "name=s", "videos=1", "threads=1", "progress=false"])
    begin.wait()
    evaluate(cfg, choices, "worldkv")


def test_several_writers_of_one_evaluation_end_with_one_whole_result(tmp_path, forks):
    """Three processes evaluate the same settings in the same folder at once, as agents on a shared file system may."""
    begin = forks.Barrier(3)
    processes = [forks.Process(target=_evaluate, args=(str(tmp_path), begin)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * 3
    assert len(outcome(tmp_path)) == 1
    (run,) = (tmp_path / "outputs" / "s").glob("worldkv-*")
    summary = json.loads((run / "results.json").read_text())["summary"]
    values = [json.loads(p.read_text())["values"] for p in (run / "trajectories").glob("[!.]*.json")]
    for key, entry in summary.items():
        assert entry["mean"] == pytest.approx(sum(v[key] for v in values) / len(values), rel=1e-12), "the summary is of these very records"
    assert not list(tmp_path.rglob("*.partial*")), "no litter"


def test_finished_points_run_again_when_asked_to(tmp_path, forks):
    """In a new folder too, which the sweep itself begins; however the setting is written."""
    arguments = [str(sweep_file(tmp_path, {"policy": {"values": ["sliding"]}})), *TINY]
    at = []
    for given in ("overwrite=true", "overwrite=True", "overwrite=false"):
        process = forks.Process(target=_round, args=(str(tmp_path), [*arguments, given]))
        process.start()
        process.join()
        assert process.exitcode == 0
        (results,) = (tmp_path / "outputs" / "s").glob("*/results.json")
        at.append(results.stat().st_mtime_ns)
    assert at[0] < at[1] == at[2]


def test_a_point_without_the_metric_does_not_stop_the_others(tmp_path, forks):
    """No view returns after 300 frames; the point after it has some."""
    arguments = [str(sweep_file(tmp_path, {"world.min_gap": {"values": [300, 9]}})), *TINY, "policy=sliding"]
    for _ in range(2):
        process = forks.Process(target=_round, args=(str(tmp_path), arguments))
        process.start()
        process.join()
        assert process.exitcode == 1, "one of two"
        assert len(list((tmp_path / "outputs" / "s").glob("*/results.json"))) == 2
