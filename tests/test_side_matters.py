"""What is beside a result must not cost it: git, launchers, metrics of a sweep, wrappers in checkpoints."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from harness.evaluation.multirun import Asked, Job, listening, planned, tell, told
from harness.results import provenance
from harness.results.provenance import UNKNOWN, commit
from harness.settings.command_line import CONF, composed
from harness.sweeping.file import load
from harness.sweeping.local import options
from tests.commands import SWEEP, ended
from tests.sweep_files import sweep_file
from tests.test_checkpoints import TENSORS, Malicious, loaded, renamed, saved
from tests.test_checkpoints import load as load_net
from tests.test_run import TINY, run

NO_GIT = {"commit": UNKNOWN, "dirty": None}


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    """A repository with the file that says what commit a run was made with."""
    here = tmp_path / "checkout"
    (here / "harness" / "results").mkdir(parents=True)
    (here / "harness" / "results" / "provenance.py").write_text("one\n")
    git(here, "init", "-q")
    git(here, "add", ".")
    git(here, "commit", "-qm", "one")
    return here


def test_the_commit_of_a_checkout(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == {"commit": head, "dirty": False}
    (checkout / "harness" / "results" / "provenance.py").write_text("two\n")
    assert commit(checkout) == {"commit": head, "dirty": True}


def test_a_wheel_in_another_projects_folder_has_none_of_its_commits(checkout):
    site = checkout / ".venv" / "lib" / "site-packages"
    (site / "harness" / "results").mkdir(parents=True)
    assert commit(site) == NO_GIT
    (checkout / "harness" / "results" / "provenance.py").unlink()
    git(checkout, "rm", "-q", "--cached", "harness/results/provenance.py")
    assert commit(checkout) == NO_GIT, "a repository that this code is no part of"


def test_a_clone_that_git_refuses_is_unknown_and_not_clean(checkout, monkeypatch, tmp_path):
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership' >&2\nexit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    assert commit(checkout) == NO_GIT
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(provenance, "PATIENCE", 0.2)
    assert commit(checkout) == NO_GIT, "a git that does not answer"
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert commit(checkout) == NO_GIT, "no git at all"


def test_a_git_folder_of_the_environment_is_not_ours(checkout, monkeypatch, tmp_path):
    (tmp_path / "other").mkdir()
    git(tmp_path / "other", "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other" / ".git"))
    assert commit(checkout)["dirty"] is False, "as in a hook of another repository"


def test_a_run_without_git_has_results(tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    run("policy=sliding", *TINY, "logger=none", "videos=0", "world.trajectories=1", "run_dir=r", cwd=tmp_path, PATH=str(empty))
    about = json.loads((tmp_path / "r" / "results.json").read_text())["run"]
    assert about["git"] == NO_GIT and about["versions"]["torch"] in torch.__version__
    from harness.reporting import data, groups

    (tmp_path / "e").mkdir()
    (tmp_path / "r").rename(tmp_path / "e" / "r")
    assert data.report("e", groups.read_runs(tmp_path / "e")[0], [])["runs"][0]["commit"] == UNKNOWN


def test_a_picture_or_film_that_fails_costs_no_result(tmp_path, monkeypatch, caplog):
    from av.error import FFmpegError

    from harness.evaluation.evaluate import evaluate
    from harness.reporting import media

    def broken(*arguments):
        raise FFmpegError(1, "no encoder libx264")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(media, "save_video", broken)
    settings = ["policy=sliding", *TINY, "logger=none", "world.trajectories=1", "videos=1"]
    cfg, choices = composed(CONF, [*settings, f"run_dir={tmp_path}/a", "~metric.psnr"])
    results = evaluate(cfg, choices, "sliding", compare=False)
    assert results["run"]["trajectories"] == 1 and "quality/ssim_revisit" in results["summary"], "PSNR is not needed to draw"
    assert "a video was not written" in caplog.text
    monkeypatch.setattr(media, "save_video", full)
    cfg, choices = composed(CONF, [*settings, f"run_dir={tmp_path}/b"])
    with pytest.raises(OSError, match="No space left"):
        evaluate(cfg, choices, "sliding", compare=False)


def test_several_runs_by_glob_now_and_hydra_are_found(tmp_path):
    settings = [*TINY, "logger=none", "videos=0", "world.trajectories=1"]
    said = run("-m", "policy=glob(sink_*)", *settings, "name=g", cwd=tmp_path)
    assert "2 of 2 runs are finished: outputs/g" in said
    said = run("-m", "policy=full,sliding", *settings, "name=${now:%Y}-x", "run_dir=out/${hydra:job.num}-${now:%H%M%S%f}", cwd=tmp_path)
    assert "2 of 2 runs are finished: out" in said and "Traceback" not in said
    assert not list((tmp_path / "outputs").glob(".jobs*"))
    said = run("-m", "policy=glob(sink_*)", *settings, "world.trajectories=0", "name=bad", cwd=tmp_path, code=1)
    assert "0 of 2 runs are finished" in said and said.count("not finished: ") == 2
    for key in ("run_dir", "name"):
        said = run("-m", "policy=full", *settings, f"{key}=${{nowhere}}", cwd=tmp_path, code=1)
        assert said.strip().splitlines()[-1].startswith(f"error: {key}: Interpolation key 'nowhere' not found"), said


def test_the_plan_comes_from_the_jobs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = Asked.by(["-m", "policy=glob(sink_*)", "run_dir=${hydra:job.num}", *TINY])
    assert [(j.overrides[0], j.path) for j in planned(asked)] == [("policy=sink_recent", None), ("policy=sink_recent_rebased", None)]
    jobs = [Job(("seed=0",), Path("a")), Job(("seed=1",), Path("b")), Job(("seed=2",), None)]
    with listening() as folder:
        tell(1, ["seed=1"], Path("elsewhere"))
        tell(3, ["seed=3"], None)
        assert [j.path for j in told(folder, jobs)] == [Path("a"), Path("elsewhere"), None, None]
        assert told(folder, jobs)[3].overrides == ("seed=3",)
    assert not (tmp_path / "outputs" / ".jobs").exists()
    tell(0, [], Path("nobody listens"))
    assert Asked.by(["hydra.mode=MULTIRUN", "policy=full"]).several and not Asked.by(["policy=full"]).several


def test_a_misspelt_metric_stops_a_sweep_after_its_first_point(tmp_path):
    path = sweep_file(tmp_path, {"policy": {"value": "sliding"}, "seed": {"values": [0, 1, 2, 3]}}, metric={"name": "quality/psnr_revisti", "goal": "maximize"})
    settings = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0", "world.trajectories=1", "threads=1"]
    for _ in range(2):  # also where the first point is there already
        code, said = ended(SWEEP, str(path), *settings, cwd=tmp_path, env=os.environ | {"COLUMNS": "200"})
        assert code == 1
        said = " ".join(said.split())
        assert "runs have no quality/psnr_revisti, which the sweep file names as its metric; did you mean quality/psnr_revisit" in said
        assert len(list((tmp_path / "outputs" / "s").glob("*/results.json"))) == 1


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"policy.retreived": {"values": [1, 2]}}, "policy.retrieved"),
        ({"polcy.retrieved": {"value": 3}}, "there is no setting 'polcy.retrieved'"),
        ({"policy.retreived": {"min": 1, "max": 9}}, "policy.retrieved"),
    ],
)
def test_a_misspelt_parameter_is_answered_at_once(tmp_path, parameters, expected):
    path = sweep_file(tmp_path, {"policy": {"value": "worldkv"}} | parameters)
    with pytest.raises(SystemExit, match=f"there is no setting(.|\n)*{expected}|{expected}"):
        options([str(path)])


def test_what_this_runner_does_otherwise_gets_a_line(tmp_path, capsys):
    more = {"early_terminate": {"type": "hyperband", "min_iter": 3}, "run_cap": 2}
    path = sweep_file(tmp_path, {"seed": {"values": [0, 1, 2, 3]}}, **more)
    assert options([str(path)]).count == 2 and options([str(path), "count=1"]).count == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("early_terminate is left to W&B's agents") and said[1] == "run_cap: no more than 2 points"
    with pytest.raises(ValueError, match="policy.compressor.ratio: a grid has no points between min and max; list its values, or use method random"):
        load(sweep_file(tmp_path, {"policy.compressor.ratio": {"min": 0.1, "max": 0.9}}))
    assert load(sweep_file(tmp_path, {"seed": {"min": 0, "max": 2}})).points(None) == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert load(sweep_file(tmp_path, {"seed": {"min": 0, "max": 2}}, method="random")).points(1)


WRAPPED = {
    "Self-Forcing's early file": {"generator": TENSORS, "critic": {"w": torch.ones(1)}, "step": 3},
    "the average first": {"generator": {"other": torch.ones(1)}, "generator_ema": TENSORS},
    "DataParallel": renamed(TENSORS, "^", "module."),
    "compiled": renamed(TENSORS, "^", "_orig_mod."),
    "compiled within": renamed(TENSORS, r"^blocks\.", "blocks._orig_mod."),
    "FSDP": renamed(renamed(TENSORS, "^", "_fsdp_wrapped_module."), r"blocks\.(\d)", r"blocks.\1._fsdp_wrapped_module._checkpoint_wrapped_module"),
    "all of them": {"generator_ema": renamed(TENSORS, "^", "module._orig_mod.model.")},
}


@pytest.mark.parametrize("case", WRAPPED)
def test_what_trainers_put_around_weights_is_taken_off(tmp_path, case):
    assert loaded(load_net(saved(tmp_path / "net.pth", WRAPPED[case]), prefix="model."))


@pytest.mark.parametrize("held", [{"gain": Malicious()}, {"args": __import__("argparse").Namespace(a=1), "model": TENSORS}, torch.nn.Linear(1, 1)])
@pytest.mark.parametrize("archive", [True, False])
def test_unsafe_advice_is_not_passed_on(tmp_path, held, archive):
    with pytest.raises(ValueError, match="net.pth was refused: it is damaged or holds more than tensors") as error:
        load_net(saved(tmp_path / "net.pth", held, _use_new_zipfile_serialization=archive))
    chain, seen = error.value, []
    while chain is not None and chain not in seen:
        seen.append(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    text = " ".join(map(str, seen))
    assert not [word for word in ("weights_only", "safe_globals", "allowlist", "trust") if word in text], text
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "jit.pth")
    with pytest.raises(ValueError, match="jit.pth") as error:
        load_net(tmp_path / "jit.pth")
    assert "weights_only" not in str(error.value) and "torch.jit" not in str(error.value)


def test_a_macs_shadow_of_a_checkpoint_is_none(tmp_path):
    saved(tmp_path / "net.safetensors")
    (tmp_path / "._net.safetensors").write_bytes(b"\0\5\x16\7")
    assert loaded(load_net(tmp_path))
