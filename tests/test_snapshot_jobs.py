"""Snapshots of the main job: saved, gone on from, and never lost to another run."""

import shutil
from pathlib import Path

import pytest

from harness.evaluation.evaluate import evaluate
from harness.settings.command_line import CONF, composed

COMMON = (
    "policy=worldkv", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "progress=false", "logger=none", "videos=0", "world.trajectories=1",
    "world.specs=[R90L90R60L60]",
)  # fmt: skip


def job(*overrides):
    cfg, choices = composed(CONF, [*COMMON, *overrides])
    return evaluate(cfg, choices, "worldkv", compare=False)["summary"]


def test_the_main_job_saves_and_goes_on(tmp_path, monkeypatch):
    """Whole; half and saved; the rest, in other tiers: every quality column agrees, and nothing is left in the run folder."""
    monkeypatch.chdir(tmp_path)
    whole, half = job("run_dir=whole"), job("run_dir=half", "snapshot.save=m", "snapshot.chunks=4")
    tiers = "{gpu: 10kB, cpu: 10kB, disk: 1MB}"
    rest = job("run_dir=rest", "snapshot.load=m", "store=tiered", f"store.limits={tiers}")
    assert {k: v for k, v in rest.items() if k.startswith("quality/")} == {k: v for k, v in whole.items() if k.startswith("quality/")}
    assert rest["chunks"]["mean"] == whole["chunks"]["mean"] > half["chunks"]["mean"] == 4
    assert rest["cost/bank_bytes_disk"]["mean"] > 0 and not Path("rest/bank").exists()
    with pytest.raises(ValueError, match="policy.retrieved is 9 there and 6 here"):
        job("run_dir=other", "snapshot.load=m", "policy.retrieved=6")
    with pytest.raises(ValueError, match="other settings of snapshot"):
        job("run_dir=half")
    shutil.rmtree("m")
    job("run_dir=half", "snapshot.save=m", "snapshot.chunks=4")
    assert len(list(Path("m").iterdir())) == 1, "a finished run that saved nothing yet runs again to save"


def test_a_snapshot_of_another_path_or_length_is_not_replaced(tmp_path, monkeypatch):
    """The same names, other poses: nothing is run over it, nor is it taken for this run's."""
    monkeypatch.chdir(tmp_path)
    job("run_dir=a", "snapshot.save=m", "snapshot.chunks=4")
    whole = (tensors := next(Path("m").rglob("tensors.safetensors"))).read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    job("run_dir=a", "snapshot.save=m", "snapshot.chunks=4")
    assert next(Path("m").rglob("tensors.safetensors")).read_bytes() == whole, "a damaged one is made again"
    kept = {p: p.read_bytes() for p in Path("m").rglob("*") if p.is_file()}
    for overrides, why in (
        (("world.degrees=10.0", "snapshot.chunks=4"), "of another path than test0000_R90L90R60L60"),
        (("snapshot.chunks=5",), "of 4 chunks, and"),
    ):
        with pytest.raises(ValueError, match=f"is a snapshot {why}.*choose another snapshot.save"):
            job("run_dir=b", "snapshot.save=m", *overrides)
    assert {p: p.read_bytes() for p in Path("m").rglob("*") if p.is_file()} == kept and not list(Path("b").glob("trajectories/*"))
    job("run_dir=c", f"snapshot.load={next(Path('m').iterdir())}", "snapshot.save=m", "snapshot.chunks=5")  # its own continuation may take its place
