"""The main job from Python: names and objects, tables, and folders that are found again."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import harness
from backbones.rooms import TinyRoomsBackbone
from harness import Comparison, Evaluation, Session, compare, evaluate
from harness.evaluation.objects import settings_of
from harness.evaluation.predict import of_another_process
from harness.results.run_folder import RunFolder
from harness.worlds.recorded import RecordedWorld
from metrics.frame import PSNR, FrameMetric
from policies.sink_recent import SinkRecentPolicy
from tests.conftest import make_policy, make_world

TINY = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "progress=false", "videos=1", "threads=1")


@dataclass
class Mine(SinkRecentPolicy):
    """A policy of a script's own."""

    step: int = 2


class Loudness(FrameMetric):
    name, version, higher_is_better = "loudness", "1", True

    def score(self, a, b):
        return (a - b).abs().flatten(1).mean(1)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The working folder of this file's runs, which later tests find again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("api"))
        yield


@pytest.fixture(scope="module")
def run(here) -> Evaluation:
    return evaluate("worldkv", *TINY)


def noiseless(folder) -> list:
    """What decides that two runs are the same one: noise, scores, and the plans of every chunk."""
    return [(r.name, r.noise, r.pairs, [c["retrieved"] for c in r.chunks]) for r in RunFolder(folder).records()]


def test_there_are_no_more_processes_than_trajectories_to_make(run):
    """Two devices, and one trajectory left of a run that was killed."""
    (run.path / "trajectories" / f"{run.trajectories[-1]['trajectory']}.json").unlink()
    (run.path / "results.json").unlink()
    before = noiseless(run.path)
    again = evaluate("worldkv", *TINY, "devices=2")
    assert again.path == run.path and noiseless(run.path)[:-1] == before and again.summary["quality/psnr_revisit"] == run.summary["quality/psnr_revisit"]


def test_a_run_has_its_tables_pictures_and_means(run):
    assert isinstance(run, Evaluation) and run.label == "worldkv" and not run.failed
    assert run["quality/psnr_revisit"] == run.summary["quality/psnr_revisit"]["mean"]
    names = [row["trajectory"] for row in run.trajectories]
    assert len(names) == len(set(names)) == run.results["run"]["trajectories"]
    assert {row["trajectory"] for row in run.pairs} == set(names) and {"first", "revisit", "psnr_revisit"} <= run.pairs[0].keys()
    assert {row["trajectory"] for row in run.chunks} == set(names) and run.probes == []
    assert set(run.pictures) == {"frames", "chunks"} and all(p.exists() for p in (*run.pictures.values(), *run.videos)) and run.videos
    assert "PSNR revisit" in str(run)
    assert run._repr_html_().startswith("<table>") and 'src="data:image/png;base64,' in run._repr_html_()
    with pytest.raises(KeyError, match="quality/psnr_revisit"):
        run["psnr"]


def test_the_same_settings_find_the_run_again(run, capsys):
    before = (run.path / "results.json").stat().st_mtime_ns
    assert evaluate("worldkv", *TINY).path == run.path and (run.path / "results.json").stat().st_mtime_ns == before
    assert capsys.readouterr().out == "", "quiet"
    evaluate("worldkv", *TINY, quiet=False)
    assert "finished before" in capsys.readouterr().out


def test_an_object_gives_the_results_of_its_settings(run):
    """The policy, the backbone and the world of the settings file, made by hand."""
    policy, metrics = make_policy("worldkv"), [PSNR(), Loudness()]
    world = make_world(["R60L60", "out_back"], trajectories=2)
    named = evaluate("worldkv", *TINY, world=world)
    made = evaluate(policy, *TINY, world=world, backbone=TinyRoomsBackbone(), metrics=metrics)
    assert made.path != named.path and made.results["run"]["policy"] == type(policy).__name__
    first, second = noiseless(named.path), noiseless(made.path)
    assert [(a[0], a[1], a[3]) for a in first] == [(b[0], b[1], b[3]) for b in second]
    for a, b in zip(named.pairs, made.pairs, strict=True):
        assert a["psnr_revisit"] == b["psnr_revisit"] and "loudness_revisit" in b
    assert evaluate(make_policy("worldkv"), *TINY, world=world, backbone=TinyRoomsBackbone(), metrics=metrics).path == made.path


def test_objects_are_told_apart_by_what_they_hold(here):
    first, second = evaluate(Mine(3, 6), *TINY), evaluate(Mine(3, 6, step=3), *TINY)
    assert first.path != second.path and second.label == "Mine recent=6 step=3"
    one, other = TinyRoomsBackbone(), TinyRoomsBackbone()
    assert settings_of(one) == settings_of(other)
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    assert settings_of(one) != settings_of(other)
    assert settings_of(make_world(["R60L60"])) != settings_of(make_world(["L60R60"]))
    assert settings_of(make_world(["R60L60"]))["protocol"] == "guided", "readable in config.yaml"


def test_what_was_computed_meanwhile_is_no_setting(tmp_path):
    """Looking at depth, or at a path, makes no other object of it."""
    one = TinyRoomsBackbone()
    before = settings_of(one)
    one.__dict__["depth_head"] = torch.nn.Linear(2, 2)  # as functools.cached_property keeps it
    assert settings_of(one) == before
    np.save(tmp_path / "walk_poses.npy", np.tile(np.eye(4), (9, 1, 1)))
    iio.imwrite(tmp_path / "first.png", np.zeros((16, 24, 3), np.uint8))
    world = RecordedWorld(str(tmp_path), (16, 24), "free", 1, (16, 24), 16.0, 6, 0.25, 3, fov=80.0)
    before = settings_of(world)
    world.trajectory(0)
    assert settings_of(world) == before and before["protocol"] == "free"


def test_what_cannot_be_told_apart_is_refused():
    class Odd:
        def __init__(self) -> None:
            self.callback = print

    with pytest.raises(ValueError, match=r"Odd\.callback.*dataclass"):
        settings_of(Odd())


def test_policies_are_compared_on_the_same_noise(here):
    both = compare(["full", Mine(3, 6)], *TINY)
    assert isinstance(both, Comparison) and both.baseline == "full"
    assert len({r.results["run"]["noise"] for r in both.runs}) == 1
    assert both["full"] is both.runs[0]
    rows = {row["run"]: row for row in both.table}
    assert rows["full"]["PSNR revisit to full"] == "baseline" and "[" in rows["Mine recent=6"]["PSNR revisit to full"]
    assert both._repr_html_().count("<tr>") == 3
    with pytest.raises(KeyError, match="full"):
        both["nobody"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: evaluate("worldkvv"), "worldkvv"),
        (lambda: evaluate("worldkv", "world.trajectoris=2"), "Did you mean"),
        (lambda: evaluate("worldkv", *TINY, "world.trajectories=0"), "trajectories=0"),
        (lambda: evaluate("worldkv", "plugins=[nowhere]"), "nowhere"),
        (lambda: evaluate(Mine(3, 6), *TINY, "devices=2"), "devices=2"),
        (lambda: compare([]), "at least one policy"),
        (lambda: compare(["full"], *TINY, "name=never_run", baseline="sliding"), "none of the runs: full"),
        (lambda: compare([Mine(3, 6), Mine(3, 6)], *TINY, "name=never_run"), "are called Mine recent=6; evaluate each with a label"),
    ],
)
def test_settings_that_cannot_work_are_value_errors(here, call, said):
    with pytest.raises(ValueError, match=said):
        call()
    assert not Path("outputs/never_run").exists(), "said before anything runs"


def test_the_package_offers_them_and_nothing_heavy_is_imported_for_it():
    assert {"evaluate", "compare", "Session"} <= set(dir(harness)) and Session.begin
    code = "import sys, harness; dir(harness); raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="nothing"):
        harness.nothing  # noqa: B018


class Broken(Loudness):
    name = "broken"

    def score(self, a, b):
        return torch.full((len(a),), torch.nan)


def test_a_metric_that_gives_no_number_fails_its_trajectory(here):
    """Not the run, which would never end: a record with NaN cannot be read back."""
    made = evaluate("sliding", *TINY, metrics=[Broken()])
    assert made.failed and all("for a number: see the metric that gave it" in why for why in made.failed.values())


TRACEBACK = """

-- Process 1 terminated with the following error:
Traceback (most recent call last):
  File "/x/predict.py", line 3, in f
    raise error
    ^^^^^^^^^^^
{0}
"""


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (
            "ValueError: w does not fit:\na is (1,), expected (2,)\nc is (3, 4), expected (4, 4)",
            ValueError,
            "w does not fit:\na is (1,), expected (2,)\nc is (3, 4), expected (4, 4)",
        ),
        ("FloatingPointError: NaN in chunk 3", ValueError, "NaN in chunk 3"),
        ("AttributeError: 'NoneType' object has no attribute 'bank'", RuntimeError, None),
        ("torch.OutOfMemoryError: of the device", RuntimeError, None),
        ("AssertionError", RuntimeError, None),
    ],
)
def test_what_another_process_raised_keeps_its_message_and_its_kind(raised, kind, said):
    """A mistake is told whole; a fault of the program stays one, with its place."""
    text = TRACEBACK.format(raised)
    error = of_another_process(text)
    assert type(error) is kind and str(error) == (said or text)
