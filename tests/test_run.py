"""The main job through its real entry point: one process a test, so few of them."""

import csv
import json
import os
import re
import signal
import subprocess
import time

import pytest
import torch
import yaml

from tests.commands import Command
from tests.conftest import ROOT

TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "threads=1", "progress=false"]
KEYS = [
    "quality/psnr_revisit",
    "quality/ssim_revisit",
    "quality/psnr_reference",
    "quality/psnr_floor",
    "quality/psnr_ceiling",
    "cost/fps_mean",
    "cost/fps_last",
    "cost/latency_p50_ms",
    "cost/latency_p95_ms",
    "cost/attended_tokens",
    "cost/window_bytes",
    "cost/bank_bytes",
    "cost/stored_bytes",
    "cost/bank_bytes_gpu",
    "cost/bank_bytes_cpu",
    "cost/bank_bytes_disk",
    "cost/bytes_moved",
    "cost/unreachable_frames",
    "cost/peak_bytes",
]


def start(*arguments, cwd, **env):
    return Command("run.py", *arguments, cwd=cwd, env=os.environ | {"WANDB_MODE": "offline", "HOME": str(cwd), "COLUMNS": "150"} | env)


def run(*arguments, cwd, code=0, **env):
    process = start(*arguments, cwd=cwd, **env)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def test_the_main_job_from_anywhere_with_two_policies(tmp_path):
    """Another working directory, -m, W&B offline, the table with both, every file of the run folder."""
    out = run("-m", "policy=full,worldkv", *TINY, "logger=offline", "name=e", "videos=1", cwd=tmp_path)
    assert "worldkv" in out.split("95 % interval")[-1]
    folders = sorted((tmp_path / "outputs" / "e").glob("*-*"))
    assert [f.name.split("-")[0] for f in folders] == ["full", "worldkv"]
    assert (tmp_path / "outputs" / "e" / "cost.png").stat().st_size > 10_000
    for folder in folders:
        names = {p.name for p in folder.iterdir()}
        assert {"config.yaml", "results.json", "pairs.csv", "chunks.csv", "trajectories.jsonl", "videos", "frames.png", "chunks.png", "wandb"} <= names
        results = json.loads((folder / "results.json").read_text())
        assert not [k for k in KEYS if k not in results["summary"]]
        assert {"policy", "backbone", "world", "seed", "git", "versions", "device", "noise", "metrics"} <= results["run"].keys()
        assert results["summary"]["quality/psnr_revisit"]["n"] == 2
        assert yaml.safe_load((folder / "config.yaml").read_text())["policy"]["_target_"].startswith("policies.")
        with (folder / "chunks.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert {r["trajectory"] for r in rows} == {"test0000_R_L90", "test0001_R_L90"}
        assert len(list((folder / "videos").glob("*.mp4"))) == 2
        assert list((folder / "wandb").glob("offline-run-*"))
    noise = {json.loads((f / "results.json").read_text())["run"]["noise"] for f in folders}
    assert len(noise) == 1, "the same noise for every policy"


def test_a_killed_run_goes_on_and_a_finished_one_is_not_repeated(tmp_path):
    arguments = ["policy=sliding", *TINY, "logger=none", "run_dir=r", "world.trajectories=12", "videos=0", "world.specs=[R90L90R90L90]"]
    process = start(*arguments, cwd=tmp_path)
    records = tmp_path / "r" / "trajectories"
    while process.poll() is None and len(list(records.glob("*.json"))) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = {p: p.stat().st_mtime_ns for p in records.glob("*.json")}
    assert 3 <= len(before) < 12, "the kill came too late to show anything"
    assert not (tmp_path / "r" / "results.json").exists()
    run(*arguments, cwd=tmp_path)
    assert len(list(records.glob("*.json"))) == 12
    assert all(p.stat().st_mtime_ns == at for p, at in before.items()), "finished trajectories ran again"
    assert "finished before" in run(*arguments, cwd=tmp_path)
    out = run(*arguments, "seed=1", cwd=tmp_path, code=1)
    assert "other settings of seed" in out
    alone = run(
        "policy=sliding", *TINY, "logger=none", "run_dir=whole", "world.trajectories=12", "videos=0", "world.specs=[R90L90R90L90]", "devices=2", cwd=tmp_path
    )
    assert "whole" in alone
    one, two = (json.loads((tmp_path / d / "results.json").read_text()) for d in ("r", "whole"))
    quality = {k for k in one["summary"] if k.startswith("quality/")}
    assert all(one["summary"][k] == two["summary"][k] for k in quality), "killed and resumed on one process equals two processes"
    assert one["run"]["noise"] == two["run"]["noise"]


def test_jobs_of_a_launcher_are_compared_and_failures_named(tmp_path):
    """Each run in a process that prints elsewhere; one has settings that cannot work. The next start repeats only that one."""
    arguments = ["-m", "hydra/launcher=submitit_local", "policy=sliding", "policy.recent=12,-1", *TINY, "logger=none", "videos=0", "name=e"]
    out = run(*arguments, cwd=tmp_path, code=1)
    assert "1 of 2 runs are finished: outputs/e" in out
    assert re.search(r"not finished: .*policy.recent=-1.*: policy.recent=-1: use a whole number from 0", out), out
    assert "sliding recent=12" in out.split("95 % interval")[-1], "the comparison"
    assert "validated against" not in out
    (good,) = (tmp_path / "outputs" / "e").glob("*/results.json")
    (bad,) = (tmp_path / "outputs" / "e").glob("*/error.txt")
    assert "Traceback" in bad.read_text() and good.parent != bad.parent
    assert (tmp_path / "outputs" / "e" / "cost.png").exists()
    at = good.stat().st_mtime_ns
    out = run(*[a for a in arguments if "launcher" not in a], cwd=tmp_path, code=1)
    assert "finished before" in out and "1 of 2 runs" in out, "the basic launcher goes on after a failure too"
    assert good.stat().st_mtime_ns == at


@pytest.mark.parametrize("flags", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"], []])
def test_several_runs_with_configs_of_ones_own_are_compared_too(tmp_path, flags):
    """What -m starts is known before: the folders that are compared at the end. Flags that ask Hydra for something else start none."""
    from harness.evaluation.multirun import Asked, planned

    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine.yaml").write_text("_target_: policies.sliding.SlidingPolicy\nrecent: 6\n")
    mine = "mine" if flags else "full"
    asked = Asked.by(["-m", *(f.format(tmp_path) for f in flags), f"policy={mine},worldkv", *TINY])
    assert asked.several and not asked.others
    assert [(job.overrides[0], job.path.name.split("-")[0]) for job in planned(asked)] == [(f"policy={p}", p) for p in (mine, "worldkv")]
    assert Asked.by(["-m", "--cfg", "job"]).others == ["--cfg"] and not Asked.by(["policy=full"]).several


def test_make_table_runs_what_its_table_is_made_of():
    dry = subprocess.run(["make", "-n", "table"], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert "harness/run.py -m +experiment=table policy=full," in dry and "harness/docs.py outputs/table_guided" in dry
    assert set(json.loads((ROOT / "docs/results/table_guided.json").read_text())["runs"]) == set(re.search(r"policy=(\S+)", dry)[1].split(","))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["policy=worldvk"], ["worldvk", "Did you mean: worldkv"]),
        (["policy=[1]"], ["error: policy=[1]: an option of policy is a name"]),
        (["policy=worldkv", "policy.retreived=6"], ["policy.retreived", "Did you mean: policy.retrieved"]),
        (["policy=worldkv", "policy.sink=-1"], ["error: policy.sink=-1: use a whole number from 0"]),
        (
            ["backbone=rooms", "backbone.weights=missing.safetensors", "metric=default", "world=rooms"],
            ["no weights at missing.safetensors", "harness/train.py"],
        ),
        (["world.size=[64,64]"], ["the model works at (16, 24)"]),
        (["world=recorded", "world.folder=nowhere"], ["error: world.folder=nowhere is no folder"]),
    ],
    ids=lambda v: v[-1] if isinstance(v, list) and "=" in v[-1] else "",
)
def test_mistakes_are_answered_with_the_remedy(tmp_path, arguments, expected):
    given = {a.split("=")[0] for a in arguments}
    out = run(*[t for t in TINY if t.split("=")[0] not in given], *arguments, "logger=none", cwd=tmp_path, code=1)
    assert "Traceback" not in out
    for text in expected:
        assert text in " ".join(out.split())


def test_help_explains_itself(tmp_path):
    out = run("--help", cwd=tmp_path)
    for text in ("policy=worldkv", "world.trajectories=4", "sink_recent", "logger: auto"):
        assert text in out


@pytest.fixture
def module(tmp_path):
    """The Lightning module on the tiny backbone, in this process."""
    from backbones.rooms import TinyRoomsBackbone
    from harness.cache.stores import GpuStore
    from harness.evaluation.rolling import Roller
    from harness.evaluation.runner import EvalModule
    from metrics.frame import PSNR
    from metrics.metric_set import MetricSet
    from tests.conftest import make_policy, make_world

    policy, store, world = make_policy("worldkv"), GpuStore(), make_world(["R_L90"], 2)
    made = EvalModule(lambda device: TinyRoomsBackbone(), policy, store, world, MetricSet((PSNR(),)), 0)
    made.roller = Roller(TinyRoomsBackbone(), policy, store, world, 0)
    return made


def test_nan_is_a_recorded_failure_and_the_rest_goes_on(module):
    network = module.roller.backbone.network
    good = network.head.bias.clone()
    network.head.bias.data.fill_(float("nan"))
    failed = module.predict_step(0)
    assert "NaN or infinity in chunk" in failed.record.error
    network.head.bias.data.copy_(good)
    assert module.predict_step(1).record.error == ""


def test_out_of_memory_is_a_recorded_failure(module):
    class Full:
        names = module.world.names

        def trajectory(self, index):
            raise torch.OutOfMemoryError("CUDA out of memory: tried to allocate 3 GiB")

    module.roller.world = Full()
    assert "store=cpu" in module.predict_step(0).record.error


def test_damaged_weights_are_named(tmp_path):
    from backbones.rooms import RoomsBackbone, TinyRoomsBackbone, pack, save_weights

    path = tmp_path / "w.safetensors"
    path.write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="is damaged"):
        RoomsBackbone(path)
    tiny = TinyRoomsBackbone()
    tensors = pack(tiny.codec, tiny.network)
    config = {
        "grid": [2, 3],
        "chunk": 3,
        "levels": [1.0, 0.7],
        "codec": {"channels": 4, "width": 4},
        "network": {"width": 64, "layers": 3, "heads": 2, "mlp": 2},
    }
    save_weights(path, config, tensors)
    restored = RoomsBackbone(path, device="cpu")
    assert all(torch.equal(a, b.half().to(a)) for a, b in zip(restored.network.state_dict().values(), tiny.network.state_dict().values(), strict=True))
    save_weights(path, config, {k: v for k, v in tensors.items() if k != "network.head.bias"})
    with pytest.raises(ValueError, match="head.bias"):
        RoomsBackbone(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        RoomsBackbone(path)
