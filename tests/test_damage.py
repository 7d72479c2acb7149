"""Damage is found: whatever happens to a file, the outcome is an error that says which one, or the same results."""

import json
import logging
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.page_files import DamagedPage
from harness.cache.stores import GpuStore
from harness.evaluation.evaluate import evaluate
from harness.reporting import data, groups
from harness.reporting.page import write_page
from harness.results.run_folder import OWED, Record, RunFolder
from harness.rollout import Snapshot, rollout
from harness.settings.command_line import CONF, composed
from harness.system.files import summed
from tests.conftest import make_policy
from tests.made_runs import make_run

VALUES = (None, {}, [], "x", -1, 0, 3.5, True, float("nan"), 10**30, [[]], {"tensor": "nowhere"}, {"word": "Plan", "fields": {}})
CLEAN = (ValueError, OSError, FloatingPointError)


def hurt(data: bytes, draw: random.Random) -> bytes:
    """A file after an accident."""
    at = draw.randrange(len(data)) if data else 0
    match draw.randrange(6):
        case 0 | 1 if data:  # one bit
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + bytes(min(64, len(data) - at)) + data[at + 64 :]
        case 4:
            return data + b"\xff\x00"
        case _:
            return data[:at] + draw.randbytes(16) + data[at + 16 :]


def edited(tree, draw: random.Random):
    """JSON with one of its values replaced, or one entry gone."""
    places = list(_places(tree))
    holder, key = draw.choice(places)
    if draw.randrange(4) == 0:
        del holder[key]
    else:
        holder[key] = draw.choice(VALUES)
    return tree


def _places(node):
    for key, value in list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []:
        yield node, key
        yield from _places(value)


@pytest.fixture
def go(backbone, trajectory):
    def run(**snapshot):
        return rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:3], snapshot=Snapshot(**snapshot))

    return run


def test_300_accidents_of_a_snapshot(go, trajectory, tmp_path):
    whole = go()
    go(save=tmp_path / "good", chunks=len(whole.stats) - 1)
    outcomes, draw = Counter[str](), random.Random(0)
    for i in range(320):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "m")
        folder = tmp_path / "m" / trajectory.name
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        file = draw.choice([folder / "session.json", folder / "tensors.safetensors", draw.choice(files)])
        how = "edit" if i % 4 == 0 else "gone" if i % 40 == 1 else "bytes"
        if how == "edit":  # well-formed JSON
            (folder / "session.json").write_text(json.dumps(edited(json.loads((folder / "session.json").read_text()), draw)))
        elif how == "gone":
            file.unlink()
        else:
            file.write_bytes(hurt(file.read_bytes(), draw))
        try:
            out = go(load=tmp_path / "m")
        except CLEAN as error:
            outcomes[f"{how}: named"] += 1
            assert "snapshot" in str(error) or "page" in str(error), (i, how, error)
        else:
            outcomes[f"{how}: equal"] += 1
            assert torch.equal(out.latents, whole.latents) and torch.equal(out.frames, whole.frames), (i, file)
    assert sum(outcomes.values()) == 320 and outcomes["bytes: named"] > 150 and outcomes["edit: named"] > 20, outcomes


def test_parts_of_another_kind_are_refused_whatever_the_checksum_says(go, trajectory, tmp_path):
    go(save=tmp_path, chunks=4)
    file = tmp_path / trajectory.name / "session.json"
    record = json.loads(file.read_text())
    del record["sum"]
    for name, part in record["state"].items():
        for value in VALUES:
            if value == part or name == "coming" and value is None or name in ("seed", "done") and isinstance(value, int) and value > 10**9:
                continue
            file.write_text(json.dumps(summed(record | {"state": record["state"] | {name: value}})))
            if name in ("seed", "noise") and type(value) is type(part):
                continue  # another one, and as good
            with pytest.raises(ValueError, match="is damaged or of another version"):
                go(load=tmp_path)
        file.write_text(json.dumps(summed(record | {"state": {k: v for k, v in record["state"].items() if k != name}})))
        with pytest.raises(ValueError, match="is damaged or of another version"):
            go(load=tmp_path)


def test_an_older_snapshot_without_checksums_is_still_read(go, trajectory, tmp_path):
    whole = go()
    go(save=tmp_path, chunks=4)
    file = tmp_path / trajectory.name / "session.json"
    record = json.loads(file.read_text())
    older = {k: v for k, v in record.items() if k not in ("sum", "tensors")} | {"schema": 2, "stored": [int(f) for f in record["stored"]]}
    file.write_text(json.dumps(older))
    assert torch.equal(go(load=tmp_path).latents, whole.latents)
    older["state"]["done"] = 3
    file.write_text(json.dumps(older))
    with pytest.raises(ValueError, match="is damaged or of another version .*latents is no tensor of 9 x any x any, as 3 chunks have it"):
        go(load=tmp_path)


def test_60_accidents_of_a_page(tmp_path):
    draw, outcomes = random.Random(1), Counter[str]()
    k, v = torch.randn(2, 3, 1, 6, 2, 32, generator=torch.Generator().manual_seed(0))
    page = Page(k, v, torch.rand(3, 6, 3))
    for _ in range(60):
        store = DiskStore(folder=str(tmp_path / "bank"))
        store.reset(torch.device("cpu"))
        store.put(0, page)
        file = store._path(0)
        before = file.read_bytes()
        file.write_bytes(hurt(before, draw))
        try:
            got = store.get(0)
        except DamagedPage as error:
            outcomes["named"] += 1
            assert "0000000.safetensors is damaged or gone" in str(error)
        else:
            assert file.read_bytes() == before and torch.equal(got.k, page.k)
            outcomes["equal"] += 1
        store.close()
    assert outcomes["named"] >= 50, outcomes


def test_a_fork_knows_the_checksums_too(tmp_path):
    store = DiskStore(folder=str(tmp_path / "bank"))
    store.reset(torch.device("cpu"))
    page = Page(*torch.randn(2, 3, 1, 6, 2, 32), torch.rand(3, 6, 3))
    store.put(0, page)
    twin = store.fork()
    file = twin._path(0)
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.unlink()
    file.write_bytes(changed)
    with pytest.raises(DamagedPage, match="its checksum is"):
        twin.get(0)
    assert torch.equal(store.get(0).k, page.k)
    twin.close()
    store.close()


def test_120_accidents_of_run_folders_block_nobody(tmp_path, caplog):
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
            file.write_text(json.dumps(edited(json.loads(file.read_text()), draw)))
        elif i % 10 == 0:
            file.write_bytes(b"\xff\xfe" + file.read_bytes())  # not UTF-8
        else:
            file.write_bytes(hurt(file.read_bytes(), draw))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            runs, unfinished = groups.read_runs(experiment)
            report = data.report("e", runs, unfinished)
            write_page(experiment / "report", experiment, report, 1)
        assert "full" in {r.label for r in runs}
        if unfinished:
            outcomes["unfinished"] += 1
            assert str(file) in caplog.text, "the file is not named"
        else:
            outcomes["shown"] += 1
        shutil.rmtree(experiment)
    assert outcomes["unfinished"] > 30, outcomes


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
