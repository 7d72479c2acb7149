"""Names of trajectories: one record each, whatever they are called; twins are refused before anything runs."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.settings.command_line import CONF, composed
from harness.system.files import file_name, folders_below, visible
from harness.worlds.base import check_names
from harness.worlds.poses import integrate, pinhole
from harness.worlds.scripted import parse
from tests.test_scenes import make

ODD = ("客厅", "卧室", "走廊", "a/b", "a_b", "a b", "a.failed", "a", "a_true", "a_pairs", "é", "e\u0301", ".hidden", "..", "x" * 400, "x" * 401, "", "~", "__~")


def test_two_names_never_share_a_file():
    found = {file_name(name) for name in ODD}
    assert len(found) == len(ODD)
    assert all(len(f) < 200 and not f.startswith(".") and "/" not in f for f in found)
    assert len({f"{f}{end}" for f in found for end in (".json", ".failed.json", ".png", "_true.png", ".mp4", "_pairs.mp4")}) == 6 * len(ODD)
    for plain in ("test0000_R_L90", "hall_R_L_R_L_R_L90_360", "rounds_full_loop", "a-b.c"):
        assert file_name(plain) == plain, "finished runs are found again"


def test_every_record_is_kept(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    for i, name in enumerate(ODD):
        folder.write(Record(name, {"quality/x": float(i)}))
        folder.write_features(name, {"m": {"a": np.array([i])}})
    folder.write(Record("a", {}, error="NaN"))
    assert folder.done() == set(ODD)
    assert folder.values() == {name: {"quality/x": float(i)} for i, name in enumerate(ODD)}
    assert folder.features(ODD)["m"]["a"].tolist() == list(range(len(ODD)))


def rooms(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        np.save(folder / name / "poses.npy", integrate(parse("R_L90", 15.0), 0.1).numpy())
        np.save(folder / name / "intrinsics.npy", pinhole(80.0, (480, 832), 1).numpy())
        iio.imwrite(folder / name / "first.png", np.full((24, 24, 3), 128, np.uint8))
    return folder


SETTINGS = (
    "backbone=rooms_tiny",
    "policy=sliding",
    "world=recorded",
    "world.size=[16,24]",
    "world.protocol=free",
    "metric=tiny",
    "logger=none",
    "progress=false",
)


def run(folder: Path, run_dir: Path) -> dict:
    from harness.evaluation.evaluate import evaluate

    cfg, choices = composed(CONF, (*SETTINGS, f"world.folder='{folder}'", f"run_dir='{run_dir}'", "videos=1"))
    return evaluate(cfg, choices, "sliding", compare=False)


def test_rooms_with_chinese_names_are_three_results(tmp_path):
    names = ("客厅", "卧室", "走廊")
    results = run(rooms(tmp_path / "in", names), tmp_path / "out")
    assert results["run"]["trajectories"] == 3
    assert sorted(RunFolder(tmp_path / "out").values()) == sorted(names)
    assert (tmp_path / "out" / "videos" / f"{file_name('卧室')}.mp4").exists(), "of the first name: 卧室"


def test_twins_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="several trajectories are called a_b; rename a folder"):
        run(rooms(tmp_path / "in", ("a/b", "a_b")), tmp_path / "out")
    assert not (tmp_path / "out" / "trajectories").exists()
    check_names(("a", "b"))


def test_scenes_keep_the_letters_of_other_scripts(tmp_path):
    for name in ("客厅", "卧室", "my hall"):
        iio.imwrite(tmp_path / f"{name}.png", np.zeros((64, 96, 3), np.uint8))
    assert make(tmp_path).names == ("my_hall_R_L90", "卧室_R_L90", "客厅_R_L90"), "plain names as ever"


def test_text_is_utf8_in_any_locale(tmp_path):
    code = f"from harness.system.files import write_atomic; from pathlib import Path; write_atomic(Path({str(tmp_path / 'x')!r}), '\\u5ba2')"
    env = os.environ | {"PYTHONCOERCECLOCALE": "0", "LC_ALL": "POSIX"}
    subprocess.run([sys.executable, "-X", "utf8=0", "-c", code], env=env, check=True)
    assert (tmp_path / "x").read_bytes() == "客".encode()


def test_links_are_followed_once_and_what_systems_leave_is_not_seen(tmp_path):
    for name in ("in/a", "in/.git", "in/__MACOSX/a", "elsewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "above").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "in")
    found = [p.relative_to(tmp_path / "in").as_posix() for p in folders_below(tmp_path / "in")]
    assert sorted(found) == [".", "a", "link", "link/deep"]
    assert [p.name for p in map(Path, ("a.png", "._a.png", "Thumbs.db")) if visible(p)] == ["a.png"]
