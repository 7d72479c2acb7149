"""Runs of one command share what no policy changes: it is made once, and every result is the one that a run alone has."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest
import torch

from backbones.rooms import TinyRoomsBackbone
from harness.evaluation import kept
from harness.evaluation.evaluate import evaluate
from harness.evaluation.kept import Kept
from harness.evaluation.multirun import folder_of
from harness.results.run_folder import RunFolder
from harness.settings.command_line import CONF, composed
from harness.worlds.rooms_world import RoomsWorld
from tests.conftest import make_world

TINY = (
    "backbone=rooms_tiny",
    "world=rooms_tiny",
    "metric=tiny",
    "logger=none",
    "progress=false",
    "videos=0",
    "threads=1",
    "world.specs=[R180R90L60R60L90]",  # views come back: there are probes
    "probes.count=2",
    "probes.gaps=[2]",
)


@pytest.fixture
def made(monkeypatch) -> Counter:
    """How often trajectories and round trips are made. What other tests left is dropped."""
    count = Counter()

    def counted(cls, name):
        method = getattr(cls, name)
        monkeypatch.setattr(cls, name, lambda *args: count.update([name]) or method(*args))

    counted(RoomsWorld, "trajectory")
    counted(TinyRoomsBackbone, "roundtrip")
    monkeypatch.setattr(kept, "_newest", ("", Kept()))
    return count


def run(*overrides: str, several: bool = True) -> list[dict]:
    """An evaluation's records, but for what was measured by a clock."""
    cfg, choices = composed(CONF, (*TINY, *overrides))
    evaluate(cfg, choices, "label", compare=False, several=several)
    records = [asdict(r) for r in RunFolder(folder_of(cfg, choices["policy"])).records()]
    for record in records:
        record["values"] = {k: v for k, v in record["values"].items() if not k.startswith("cost/")}
        record["chunks"] = [{k: c[k] for k in ("retrieved", "attended_rows", "bank_rows") if k in c} for c in record["chunks"]]
    return records


def test_what_runs_share_is_made_once_and_changes_no_result(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shared = [run("policy=worldkv"), run("policy=sliding"), run("policy=worldkv", "seed=1")]
    assert made == {"trajectory": 2, "roundtrip": 2}
    assert any(r["probes"] for r in shared[0])
    alone = [run("policy=worldkv", "name=alone", several=False), run("policy=sliding", "name=alone", several=False)]
    assert made == {"trajectory": 6, "roundtrip": 6}
    assert shared[:2] == alone and shared[0] != shared[1] != shared[2]


@pytest.mark.parametrize("other", ["world.split=validation", "probes.count=1", "backbone.seed=1"])
def test_another_world_backbone_or_probes_share_nothing(other, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, back = run("policy=sliding"), run("policy=sliding", other), run("policy=sliding", "seed=1")
    assert made["trajectory"] == 6 and first != second
    assert second == run("policy=sliding", other, "name=alone", several=False)
    assert [r["camera"] for r in back] == [r["camera"] for r in first]


def test_no_more_is_kept_than_there_is_room_for():
    path = make_world(["R_L90"], 2).trajectory(0)
    assert path.reference is not None
    size, calls = path.reference.nbytes + path.images.nbytes, Counter()

    def get(store: Kept, kind: str, value) -> Any:
        return store.get(kind, "a", lambda: calls.update([kind]) or value)

    store = Kept(size + 100)
    for _ in range(2):
        assert get(store, "trajectory", path) is path
        assert get(store, "latents", torch.zeros(100)).nbytes == 400
        assert get(store, "probes", []) == []
    assert calls == {"trajectory": 1, "latents": 2, "probes": 1}
    nothing = Kept()
    assert get(nothing, "trajectory", path) is get(nothing, "trajectory", path) and calls["trajectory"] == 3
