"""The run folder: nothing is lost, nothing is half-written, what is finished is not repeated."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from harness.results.record import Record, sound
from harness.results.run_folder import ID, RunFolder
from harness.results.statistics import interval, paired, summarise
from harness.snapshot.snapshot import is_saved
from harness.system.files import atomic_folder, atomic_path, put_back, unsummed, write_atomic
from harness.trajectory import Trajectory


def test_records_survive_and_damage_is_run_again(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write(Record("a/1", {"quality/x": 1.0}))
    folder.write(Record("b", {}, error="NaN"))
    (tmp_path / "trajectories" / "c.json").write_text('{"name": "c", "val')
    assert folder.done() == {"a/1"}, "failed and damaged records run again"
    assert RunFolder(tmp_path).values() == {"a/1": {"quality/x": 1.0}}
    (tmp_path / "results.json").write_text("{")
    assert folder.results() is None
    (tmp_path / "results.json").write_text('{"accuracy": 1}')
    assert folder.results() is None, "somebody else's file"


def test_clearing_touches_nothing_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write(Record("a", {}))
    folder.finish({}, ["a"])
    folder.clear()
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_finish_writes_what_it_promises(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    for i in range(4):
        folder.write(Record(f"t{i}", {"quality/x": float(i)}, [{"first": 0, "psnr": 1.0 * i}], [{"chunk": 0}], noise=str(i)))
    folder.write(Record("t4", {}, error="out of memory"))
    folder.write(Record("old", {"quality/x": 100.0}))
    results = folder.finish({"policy": "p"}, [f"t{i}" for i in range(5)])
    assert results == unsummed(json.loads((tmp_path / "results.json").read_text()))
    assert results["schema"] == 1
    assert results["summary"]["quality/x"]["mean"] == pytest.approx(1.5)
    assert results["summary"]["quality/x"]["n"] == 4
    assert results["run"]["failed"] == {"t4": "out of memory"}
    assert (tmp_path / "pairs.csv").read_text().splitlines()[:2] == ["trajectory,first,psnr", "t0,0,0.0"]
    assert len((tmp_path / "trajectories.jsonl").read_text().splitlines()) == 5


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "results.json"
    write_atomic(target, "old")

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="free some space"):
        write_atomic(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target], "no litter"


def test_partial_files_of_a_dead_process_are_never_read_and_go_in_time(tmp_path):
    """What a killed node leaves is no result, no video and no picture; a write that may still go on is left alone."""
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write(Record("a", {"quality/x": 1.0}))
    with atomic_path(tmp_path / "videos" / "a.mp4") as living:
        living.write_text("half")
        dead = living.with_name(living.name.replace(".partial", "0.partial"))
        dead.write_text("half")
        os.utime(dead, (0, 0))
        stale = tmp_path / "trajectories" / ".b.json.0123456789ab.partial"
        stale.write_text('{"name": "b"')
        os.utime(stale, (0, 0))
        assert folder.done() == {"a"} and not list((tmp_path / "videos").glob("[!.]*"))
        folder.finish({}, ["a"])
        assert living.exists() and not dead.exists() and not stale.exists()
    assert (tmp_path / "videos" / "a.mp4").read_text() == "half"


def test_intervals_cover_and_pair():
    rng = np.random.default_rng(1)
    hits = sum(entry["ci95"][0] <= 0 <= entry["ci95"][1] for entry in (interval(rng.normal(size=30), 500) for _ in range(200)))
    assert 175 <= hits <= 199, "a 95 % bootstrap interval of 30 values covers about 93 %"
    a = {f"t{i}": {"x": float(v)} for i, v in enumerate(rng.normal(size=20) * 10)}
    b = {k: {"x": v["x"] + 1.0} for k, v in a.items()} | {"other": {"x": 0.0}}
    entry = paired(b, a, "x")
    assert entry["mean"] == pytest.approx(1.0)
    assert entry["n"] == 20
    assert entry["ci95"] == pytest.approx([1.0, 1.0]), "paired: the spread between trajectories cancels"
    assert paired(a, {}, "x") is None
    assert summarise([{"x": 1.0}, {"y": 2.0}])["y"]["n"] == 1


def test_a_score_that_is_no_number_is_a_failure():
    """It could not be read back, and the run would never finish."""
    assert sound(Record("a", {"quality/x": 1.0})).values == {"quality/x": 1.0}
    failed = sound(Record("a", {"quality/x": float("nan")}, pairs=[{"psnr_revisit": 1.0}]))
    assert failed.name == "a" and not failed.values and "values has nan for a number" in failed.error


def test_a_folder_of_somebody_else_is_not_cleared(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "holidays.mp4").write_text("")
    (tmp_path / "config.yaml").write_text("mine: 1")
    with pytest.raises(ValueError, match="is no run folder, and overwrite=true would remove files"):
        RunFolder(tmp_path).clear()
    assert (tmp_path / "videos" / "holidays.mp4").exists()
    cleared = RunFolder(tmp_path / "cleared")  # and killed: what stays is the number of its W&B run
    cleared.create()
    (cleared.path / ID).write_text("abc")
    cleared.clear()
    cleared.clear()


def test_results_are_of_the_trajectories_that_they_name(tmp_path):
    """One that has left the world since lies there still, and is in no difference."""
    folder = RunFolder(tmp_path)
    folder.create()
    for name in ("a", "b"):
        folder.write(Record(name, {"quality/x": 1.0}))
    results = folder.finish({}, ["a"])
    assert folder.values(results) == {"a": {"quality/x": 1.0}} and set(folder.values()) == {"a", "b"}


@pytest.mark.parametrize("fails", [False, True])
def test_of_two_folders_one_is_always_there(tmp_path, monkeypatch, fails):
    """Also when a kill or an error comes between the two renames of an exchange."""
    place = tmp_path / "walk"
    for text in ("old", "new"):
        with atomic_folder(place) as folder:
            (folder / "x").write_text(text)
    if fails:
        rename = Path.replace
        monkeypatch.setattr(Path, "replace", lambda self, to: rename(self, to) if ".partial" not in self.name else (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"), atomic_folder(place) as folder:
            (folder / "x").write_text("newest")
    else:
        place.replace(tmp_path / ".walk.old")  # as a kill leaves it
        put_back(place)
    assert (place / "x").read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["walk"]


def test_a_snapshot_of_other_settings_is_not_replaced(tmp_path):
    place = tmp_path / "t"
    place.mkdir()
    about = {"policy": {"retrieved": 9}, "codec": "none"}
    (place / "session.json").write_text(json.dumps({"about": about | {"geometry": {}}, "state": {"seed": 0}}))

    def never() -> Trajectory:
        raise AssertionError("a path is rendered where there is a snapshot of the same settings alone")

    assert not is_saved(tmp_path, "u", never, about, 0)
    for other, seed, named in ((about | {"codec": "int8"}, 0, "codec is none there and int8 here"), (about, 1, "seed is 0 there and 1 here")):
        with pytest.raises(ValueError, match=f"is a snapshot of other settings .{named}.*choose another snapshot.save"):
            is_saved(tmp_path, "t", never, other, seed)
    assert not is_saved(tmp_path, "t", never, about, 0), "its tensors are missing"
    (place / "session.json").write_text("{")
    assert not is_saved(tmp_path, "t", never, about, 0)
