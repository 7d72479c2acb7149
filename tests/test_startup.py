"""What is answered before anything heavy is imported: help, mistakes, the first line of a run."""

import gc
import subprocess
import sys

import pytest

from harness.settings.command_line import check_overrides
from harness.system.importing import importing
from tests.conftest import CONF, ROOT

HEAVY = ("torch", "lightning", "torchmetrics", "wandb", "matplotlib", "scipy", "diffusers", "transformers")
TINY = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "progress=false")
# runs an entry point as the shell does, and says at its end which heavy libraries it came to import
CODE = f"""
import atexit, runpy, sys
atexit.register(lambda: print("imported:", *(m for m in {HEAVY!r} if m in sys.modules)))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(script, *arguments, cwd):
    """Return code, output, and the heavy libraries that were imported."""
    command = [sys.executable, "-c", CODE, str(ROOT / "harness" / script), *arguments]
    ended = subprocess.run(command, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    said, _, imported = ended.stdout.rpartition("imported:")
    return ended.returncode, said, set(imported.split())


@pytest.mark.parametrize("script", ["run.py", "train.py", "bench.py", "replay.py", "sweep.py", "report.py", "dashboard.py", "play.py", "score.py"])
def test_help_needs_nothing_heavy(tmp_path, script):
    code, said, imported = start(script, "--help", cwd=tmp_path)
    assert code == 0 and f"python harness/{script}" in said, said
    assert not imported


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("run.py", ["policy.retreived=6"], "Did you mean: policy.retrieved"),
        ("run.py", ["policy=worldvk"], "there is no policy=worldvk. Did you mean: worldkv"),
        ("run.py", ["-m", "policy=full,worldvk"], "there is no policy=worldvk. Did you mean: worldkv"),
        ("run.py", ["policy=worldkv", "policy/selector=covrage"], "there is no policy/selector=covrage. Did you mean: coverage"),
        ("run.py", ["policy=sliding", "policy/selector=coverage"], "policy=sliding has no selector to choose"),
        ("run.py", ["policy/scorer=h2o", "policy.recent=3"], "the default policy has no scorer to choose"),
        ("run.py", ["store=s3"], "there is no store=s3. Use one of: "),
        ("run.py", ["policy=full,sliding"], "policy=full,sliding asks for several runs; add -m"),
        ("run.py", ["logger=wandb"], "use auto, online, offline, trackio or none"),
        ("train.py", ["devcie=cpu"], "devcie"),
        ("bench.py", ["chnuk=3"], "chnuk"),
        ("replay.py", ["polcy=worldkv"], "polcy"),
    ],
)
def test_misspelt_settings_are_answered_without_torch(tmp_path, script, arguments, expected):
    code, said, imported = start(script, *arguments, cwd=tmp_path)
    assert code == 1 and expected in said, said
    assert not imported


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["policy.sink=-3", *TINY], "sink=-3"),
        (["backbone.weights=nowhere.safetensors", "logger=none"], "no weights at nowhere.safetensors"),
        (["world=recorded", "world.folder=nowhere", "logger=none"], "world.folder=nowhere is no folder"),
    ],
)
def test_settings_that_cannot_work_are_answered_before_lightning(tmp_path, arguments, expected):
    code, said, imported = start("run.py", *arguments, cwd=tmp_path)
    assert code == 1 and expected in said, said
    assert imported == {"torch"}
    assert said.startswith("policy worldkv"), "the first line comes before the imports"


def test_a_run_says_first_what_it_does_and_last_what_took_how_long(tmp_path):
    code, said, imported = start("run.py", "policy=sliding", *TINY, "run_dir=r", "videos=0", cwd=tmp_path)
    assert code == 0, said
    assert said.splitlines()[0] == "policy sliding on rooms_tiny: 2 trajectories, backbone rooms_tiny"
    took = [line for line in said.splitlines() if line.startswith("time: rollouts ")]
    assert len(took) == 1 and ", everything else " in took[0]
    assert not imported & {"wandb", "diffusers"}
    assert "GPU available" not in said and "litlogger" not in said, "what Lightning says of itself"
    code, said, imported = start("run.py", "policy=sliding", *TINY, "run_dir=r", "videos=0", cwd=tmp_path)
    assert "finished before" in said and "lightning" not in imported, "nothing to run, no Lightning"


def test_garbage_is_collected_again_after_imports_that_fail_too():
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    with importing():
        pass
    assert not gc.isenabled(), "as it was before"
    gc.enable()


def test_choices_alone_are_composed_by_hydra_alone(monkeypatch):
    def composed(*_):
        raise AssertionError("once more")

    monkeypatch.setattr("harness.settings.command_line.compose", composed)
    check_overrides(CONF, ["policy=full", "world=houses", "+more=1", "hydra.mode=RUN"])
    with pytest.raises(AssertionError):
        check_overrides(CONF, ["policy=full", "seed=1"])
