"""The main job over several ranks: it goes on over one, says what it cannot do, and ends when a rank is killed."""

import json
import os
import signal
import time

import pytest

from tests.kill.test_ranks import companions
from tests.test_run import run, start

TOY = [
    "backbone=lingbot", "backbone.weights=random", "backbone.device=cpu", "backbone.dtype=float32", "backbone.size=[32,32]", "world.size=[32,32]",
    "backbone.sizes={dim: 48, heads: 4, layers: 2, ffn: 32, context_dim: 8}", "world.trajectories=2", "world.repeat=3", "metric=tiny",
    "logger=none", "videos=0", "threads=1", "progress=false", "name=e",
]  # fmt: skip


def test_the_main_job_over_two_ranks_goes_on_over_one(tmp_path):
    """End to end: the first trajectory by two ranks, the second by one, in the same run folder; as one process makes both."""
    one = run("policy=worldkv", *TOY, "run_dir=one", "store=disk", cwd=tmp_path)
    assert "worldkv" in one
    run("policy=worldkv", *TOY, "backbone.parallel=2", "run_dir=two", "store=disk", cwd=tmp_path)
    alone, shared = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two"))
    assert (alone["run"]["ranks"], shared["run"]["ranks"]) == (1, 2)
    quality = {k: v["mean"] for k, v in alone["summary"].items() if k.startswith("quality/")}
    assert quality and {k: shared["summary"][k]["mean"] for k in quality} == pytest.approx(quality, abs=2e-3)
    assert alone["summary"]["cost/bank_bytes"]["mean"] > 0
    for key in ("cost/window_bytes", "cost/bank_bytes", "cost/attended_tokens"):
        assert shared["summary"][key]["mean"] == alone["summary"][key]["mean"], f"{key} is not that of all ranks"
    assert shared["summary"]["cost/peak_bytes_all"]["mean"] >= 2 * shared["summary"]["cost/peak_bytes"]["mean"] * 0.99
    (tmp_path / "two" / "results.json").unlink()
    first, second = sorted((tmp_path / "two" / "trajectories").glob("*.json"))
    second.unlink()
    made = first.stat().st_mtime_ns
    run("policy=worldkv", *TOY, "backbone.parallel=1", "run_dir=two", "store=disk", cwd=tmp_path)
    again = json.loads((tmp_path / "two" / "results.json").read_text())["summary"]
    assert again.keys() == shared["summary"].keys() and first.stat().st_mtime_ns == made
    assert {k: again[k]["mean"] for k in quality} == pytest.approx(quality, abs=2e-3)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["policy=full", "backbone.parallel=3"], "does not divide"),
        (["policy=heads", "backbone.parallel=2"], "heads works in one process only"),
        (["policy=full", "backbone.parallel=2", "devices=2"], "use one of them"),
        (["policy=full", "backbone.parallel=2", "snapshot.save=s"], "snapshot.save=null"),
        (["policy=full", "backbone.parallel=100000"], "cores, which take up to"),
        (["policy=full", "backbone.parallel=abc"], "backbone.parallel='abc'"),
        (["policy=full", "backbone.parallel=null"], "backbone.parallel=null: use a whole number"),
        (["policy=full", "backbone.parallel=0"], "backbone.parallel=0"),
    ],
    ids=["width", "heads", "devices", "snapshot", "many", "text", "null", "none"],
)
def test_what_ranks_cannot_do_is_said_in_one_line(settings, told, tmp_path):
    out = run(*settings, *TOY, cwd=tmp_path, code=1)
    assert out.strip().splitlines()[-1].startswith("error: ") and told in out and "Traceback" not in out


def test_a_rank_that_is_killed_ends_all(tmp_path):
    process = start("policy=worldkv", *TOY, "backbone.parallel=2", "world.trajectories=400", cwd=tmp_path)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("outputs/e/*/trajectories/*.json")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    (other,) = companions(process.pid)
    os.kill(other, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "error: rank 1 of 2 has ended (signal 9)" in out.strip().splitlines()[-1], out
    assert "Traceback" not in out
