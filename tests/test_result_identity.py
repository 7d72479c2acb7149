"""Which results belong together: other weights, other code, other inputs are kept apart."""

import json
import os
from pathlib import Path

import pytest

from backbones.rooms import WEIGHTS
from harness.evaluation.evaluate import evaluate
from harness.evaluation.weights import code_of, digest, inputs_of, weights_of
from harness.results.ownership import check_same_contents
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.settings.command_line import CONF, composed


def test_rollouts_of_other_weights_are_kept_apart(tmp_path):
    folder = RunFolder(tmp_path / "run")
    check_same_contents(folder, {"weights": "1"})
    folder.create()
    folder.write_weights({"weights": "1", "arm": "2"})
    check_same_contents(folder, {"weights": "1", "arm": "2"})
    with pytest.raises(ValueError, match=r"of other weights: what backbone\.arm names has changed since; choose another name, or overwrite=true"):
        check_same_contents(folder, {"weights": "1", "arm": "3"})


def test_what_a_world_read_and_the_code_of_classes_are_remembered(tmp_path, monkeypatch):
    """Comments and docstrings are no code. A folder of paths counts with all that lies in it but hidden files."""
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "mine_of_tests.py"
    module.write_text('class Mine:\n    """One."""\n    step = 2\n')
    settings = {"policy": {"_target_": "mine_of_tests.Mine", "inner": [{"_target_": "nowhere.at.all.X"}]}, "seed": 0}
    first = code_of(settings)
    module.write_text('class Mine:\n    """Another."""\n\n    step = 2  # a remark\n')
    assert code_of(settings) == first and first.keys() == {"code of mine_of_tests"}
    module.write_text('class Mine:\n    """One."""\n    step = 3\n')
    assert code_of(settings) != first
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_weights(first)
    assert check_same_contents(folder, first) == [] and check_same_contents(folder, code_of(settings)) == ["mine_of_tests"]
    paths = tmp_path / "paths"
    paths.mkdir()
    (paths / "poses.npy").write_bytes(b"1")
    before = inputs_of({"folder": str(paths), "split": "run", "trajectories": ["R_L", f"{paths}/"]})
    (paths / ".hidden").write_bytes(b"1")
    assert before.keys() == {"world.folder", "world.trajectories"} and inputs_of({"folder": str(paths)})["world.folder"] == before["world.folder"]
    (paths / "poses.npy").write_bytes(b"2")
    folder.write_weights(before)
    with pytest.raises(ValueError, match="of other inputs: what world.folder names has changed since"):
        check_same_contents(folder, inputs_of({"folder": str(paths)}))


def test_trajectories_of_other_code_do_not_join(tmp_path, monkeypatch, capsys):
    """A finished run stands and says so; one that lacks a trajectory is not filled up with another policy's."""
    monkeypatch.chdir(tmp_path)
    settings = ["policy=sliding", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "progress=false", "logger=none", "videos=0"]

    def job(*more):
        cfg, choices = composed(CONF, [*settings, *more])
        return evaluate(cfg, choices, "sliding")

    job()
    (path,) = Path("outputs/default").glob("sliding-*")
    changed = json.loads((path / "weights.json").read_text())
    (mine,) = (k for k in changed if k.startswith("code of policies."))
    (path / "weights.json").write_text(json.dumps(changed | {mine: "another"}))
    job()
    assert "finished before" in (said := capsys.readouterr().out) and "before policies.sliding was changed; overwrite=true runs it again" in said
    (path / "results.json").unlink()
    next((path / "trajectories").glob("*.json")).unlink()
    with pytest.raises(ValueError, match="holds trajectories of other code: policies.sliding has changed since, and one mean would be of both"):
        job()
    job("overwrite=true")
    assert json.loads((path / "weights.json").read_text()) == changed


def test_a_digest_is_of_what_is_in_files(tmp_path):
    file = tmp_path / "w.safetensors"
    file.write_bytes(bytes(3 * 2**20))
    first, again = digest(file), digest(file)
    file.write_bytes(bytes(3 * 2**20 - 1) + b"x")
    assert first == again != digest(file) and digest(tmp_path) != digest(file)
    shipped = weights_of({"_target_": "backbones.rooms.RoomsBackbone", "weights": None, "arm": "control"})
    assert shipped.keys() == {"weights", "arm"} and shipped["weights"] == digest(WEIGHTS)
    assert weights_of({"_target_": "backbones.lingbot.load", "weights": "random"}) == {} == weights_of({"_target_": "backbones.rooms.TinyRoomsBackbone"})


def test_what_changed_since_is_made_again(tmp_path):
    """A record is of the files that it was made from: a video that was replaced, costs that came later."""
    folder, video = RunFolder(tmp_path / "run"), tmp_path / "a.mp4"
    video.write_text("1")
    folder.create()
    folder.write(Record("a", {"quality/x": 1.0}))
    assert folder.is_newer("a", [video, tmp_path / "cost.json"]) and not folder.is_newer("b", [video])
    os.utime(video, (2e9, 2e9))
    assert not folder.is_newer("a", [video])
    folder.forget(["a", "b"])
    assert not folder.done()
