"""Run folders that are damaged or undone: they are named, block nobody, and are run again with the same results."""

import json
import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.evaluation.evaluate import evaluate
from harness.reporting import command, data, groups
from harness.reporting.command import FORMATS
from harness.reporting.page import write_page
from harness.results.record import Record, sound
from harness.results.run_folder import OWED, RunFolder
from harness.settings.command_line import CONF, composed
from tests.accidents import edited, hurt
from tests.made_runs import make_run


def test_120_accidents_of_run_folders_block_nobody(tmp_path, caplog, capsys):
    """The report shows the other runs, names what is damaged, and never fails; a run that is damaged is not taken for finished."""
    draw = random.Random(2)
    good = tmp_path / "good"
    make_run(good, "full", film=True)
    victim = make_run(good, "worldkv", quality=28.0, film=True).name
    outcomes = Counter[str]()
    for i in range(120):
        experiment = tmp_path / f"e{i}"  # what is said is said once a file
        shutil.copytree(good, experiment)
        folder = experiment / victim
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        file = draw.choice([folder / "results.json", draw.choice(sorted((folder / "trajectories").glob("*.json"))), draw.choice(files)])
        if i % 2 and file.suffix == ".json":
            changed = edited(json.loads(file.read_text()), draw)
            if i % 4 == 1 and isinstance(changed, dict):  # as in folders from before there were checksums: only the values' shapes can tell
                changed.pop("sum", None)
            file.write_text(json.dumps(changed))
        elif i % 10 == 0:
            file.write_bytes(b"\xff\xfe" + file.read_bytes())  # not UTF-8
        else:
            file.write_bytes(hurt(file.read_bytes(), draw))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            runs, unfinished = groups.read_runs(experiment)
            report = data.report("e", runs, unfinished)
            write_page(experiment / "report", experiment, report, 1)
            command.main([str(experiment), "--no-page", "--format", FORMATS[i % len(FORMATS)]])
        assert "full" in {r.label for r in runs}
        if unfinished:
            outcomes["unfinished"] += 1
            assert str(file) in caplog.text, "the file is not named"
        else:
            outcomes["shown"] += 1
        shutil.rmtree(experiment)
    assert outcomes["unfinished"] > 30, outcomes


@pytest.mark.parametrize(
    ("places", "value", "why"),
    [
        (("columns", 0), {"key": "quality/psnr_revisit"}, "a column has None for name"),
        (("columns", 0, "decimals"), 400, "400 decimals"),
        (("summary", "quality/psnr_revisit", "ci95"), 5, "ci95 is no list"),
        (("summary", "quality/psnr_revisit", "ci95"), [5.0], "ci95 has no two ends"),
        (("summary", "quality/psnr_revisit", "mean"), float("inf"), "inf for a number"),
        (("run", "weights"), [], "run.weights is a list"),
        (("run", "config", "published"), [1], "published is a list"),
        (("run", "config", "published"), {"worldkv": {"psnr": "high"}}, "'high' for a number"),
    ],
)
def test_results_of_wrong_shapes_are_named_and_block_nobody(places, value, why, tmp_path, caplog, capsys):
    """Folders from before there were checksums."""
    make_run(tmp_path / "e", "full")
    file = make_run(tmp_path / "e", "worldkv", quality=28.0) / "results.json"
    results = json.loads(file.read_text())
    results.pop("sum")
    *above, last = places
    holder = results
    for key in above:
        holder = holder[key]
    holder[last] = value
    file.write_text(json.dumps(results))
    with caplog.at_level(logging.WARNING):
        command.main([str(tmp_path / "e"), "--no-page"])
    assert "full" in capsys.readouterr().out and str(file) in caplog.text and why in caplog.text


def test_an_infinite_score_is_a_failure_of_its_trajectory():
    record = sound(Record("a", {"quality/x": float("inf")}))
    assert not record.values and "inf for a number: see the metric that gave it" in record.error


TINY = ["policy=sliding", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "progress=false", "logger=none", "videos=1"]


def job(*overrides: str) -> dict:
    cfg, choices = composed(CONF, [*TINY, *overrides])
    return evaluate(cfg, choices, "sliding")


def test_a_damaged_run_is_run_again_with_the_same_results(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    whole = job()
    (path,) = Path("outputs/default").glob("sliding-*")
    quality = {k: v for k, v in whole["summary"].items() if k.startswith("quality/")}
    for file, text in (
        (path / "results.json", b"\xff{}"),
        (path / "results.json", b'{"schema": 1, "run": [], "summary": {}}'),
        (path / "results.json", json.dumps(whole | {"summary": {"quality/psnr_revisit": {"mean": float("nan"), "ci95": None, "n": 2}}}).encode()),
        (path / "trajectories" / "test0000_R_L90.json", b"[1, 2]"),
        (path / "trajectories" / "test0000_R_L90.json", b'{"name": "test0000_R_L90", "values": {"quality/psnr_revisit": NaN}}'),
        (path / "config.yaml", b"policy: {_target_: [\n"),
    ):
        file.write_bytes(text)
        if file.parent.name == "trajectories":
            (path / "results.json").unlink()
        with caplog.at_level(logging.WARNING):
            again = job()
        assert {k: v for k, v in again["summary"].items() if k.startswith("quality/")} == quality, file
        assert str(file) in caplog.text
        caplog.clear()
    (path / "config.yaml").write_bytes(b"policy: {_target_: [\n")
    with pytest.raises(ValueError, match="nobody knows whose records lie there"):
        job(f"run_dir={path}")


def test_what_a_kill_after_the_results_left_undone_is_done_by_the_next_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told: list[str] = []

    class Told:
        def begin(self):
            pass

        def log(self, row):
            pass

        def finish(self, results):
            told.extend(["done"] * (results is not None))

    monkeypatch.setattr("harness.evaluation.evaluate.tracker_of", lambda *about: Told())

    def killed(folder, label):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("harness.evaluation.evaluate.run_pictures", killed)
        with pytest.raises(KeyboardInterrupt):
            job("logger=offline")
    (path,) = Path("outputs/default").glob("sliding-*")
    assert (path / "results.json").exists() and not (path / "frames.png").exists() and not told
    at = (path / "results.json").stat().st_mtime_ns
    job("logger=offline")
    assert (path / "frames.png").exists() and (path / "chunks.png").exists() and told == ["done"]
    assert (path.parent / "cost.png").exists() and not (path / OWED).exists()
    assert (path / "results.json").stat().st_mtime_ns == at, "nothing was computed again"
    job("logger=offline")
    assert told == ["done"], "W&B was told once"


def test_images_too_small_for_a_metric_are_refused_before_the_rollout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.evaluation.evaluate.predict", lambda *a: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"world.size=\[16, 24\]: lpips needs 32 pixels a side or more; use metric=tiny"):
        job("metric=default")


def test_a_run_that_lost_a_trajectory_does_not_finish(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    folder.write(Record("a", {"quality/x": 1.0}))
    with pytest.raises(ValueError, match=r"1 of 2 trajectories have neither a record nor a failure \(b\)"):
        folder.finish({}, ["a", "b"])
    assert folder.results() is None


def test_an_iterator_that_ends_too_early_does_not_end_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def ended(*args):
        raise StopIteration

    monkeypatch.setattr("harness.evaluation.rolling.rollout", ended)
    with pytest.raises(RuntimeError, match="test0000_R_L90: an iterator ended too early"):
        job()


def test_configs_are_plain_yaml():
    """What tells whose records a folder holds is read without OmegaConf, so it must not need it."""
    cfg, _ = composed(CONF, TINY)
    text = OmegaConf.to_yaml(OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)))
    assert "${" not in text
