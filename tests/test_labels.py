"""Labels of heads: measured on returns, written, found again, and refused for another network."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backbones.rooms import RoomsBackbone
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from harness.training.calibrate import main as calibrate_main
from harness.training.calibrate import returns
from policies.full import FullPolicy
from policies.parts.reach import LABELS, file_name, labels_of, labels_text
from policies.wrappers.watch_reach import WatchReachPolicy
from tests.conftest import make_policy, make_world
from tests.ledger import simulate


def test_reach_is_that_of_the_whole_matrix(backbone, trajectory, roll):
    """Of chunks 5 and 9 under full KV, from attention matrices in float64."""
    policy = WatchReachPolicy(FullPolicy(), frozenset({5, 9}))
    roll(policy)
    sums = []

    class Whole:
        def visible(self, chunk, ledger):
            return torch.ones(ledger.layers, ledger.heads, len(ledger.frame), dtype=torch.bool)

        def positions(self, chunk, ledger):
            return None

        def after(self, chunk, ledger):
            if chunk.index in (5, 9):
                old = (ledger.frame >= 3) & (ledger.frame < chunk.start - 3)
                reach = np.zeros((ledger.layers, ledger.heads))
                for layer, head in np.ndindex(*reach.shape):
                    share = ledger.shares(layer, head)
                    reach[layer, head] = share[old].sum() / (1 - share[ledger.frame < 3].sum())
                sums.append(reach)

    simulate(backbone, trajectory, Whole())
    assert policy.reach.passes == 2 and np.allclose(policy.reach.mean, np.mean(sums, 0), atol=1e-5)


def test_returns_are_the_chunks_of_revisits(backbone):
    path = make_world(["R90L90"], hold_frames=3, degrees=10.0).trajectory(0)
    chunks = returns(path, backbone)
    assert path.pairs and chunks == {p.revisit // 3 for p in path.pairs} and min(chunks) > 2


def test_labels_are_used_from_the_first_chunk(tmp_path, backbone, roll):
    """The heads of greatest reach keep what is old; none is calibrated, and no second attention is spent."""
    g, reach = backbone.geometry, torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    (tmp_path / "labels.json").write_text(labels_text(reach, g, {"settings": []}))
    policy = make_policy("heads", f"policy.labels={tmp_path / 'labels.json'}", "policy.share=0.5")
    plans, plan = [], policy.plan
    policy.plan = lambda chunk, bank: plans.append(plan(chunk, bank)) or plans[-1]
    roll(policy)
    assert not policy.needs_attention_scores
    seen = [heads for p in plans for heads in p.seen.values()]
    assert seen and all(torch.equal(heads, torch.tensor([[True, False], [False, True], [False, True]])) for heads in seen)
    first = next(p for p in plans if p.retrieved)
    assert set(first.seen) == set(first.retrieved), "the first chunk that comes back is shut to the other heads"


def test_labels_of_another_network_are_refused(tmp_path, backbone):
    (tmp_path / "x.json").write_text(labels_text(torch.zeros(3, 2), replace(backbone.geometry, tokens=7), {}))
    for path, message in ((tmp_path / "x.json", "'tokens': 7"), (tmp_path / "no.json", "cannot be read")):
        with pytest.raises(ValueError, match=message):
            make_policy("heads", f"policy.labels={path}").reset(backbone.geometry)
    assert labels_of("auto", backbone.geometry) is None, "the test network has no shipped labels: it is calibrated online"


def test_recorded_paths_calibrate_too(tmp_path):
    """They have no splits. Labels go where they are wanted, into a folder that is not there yet."""
    from harness.worlds.poses import integrate
    from harness.worlds.scripted import parse
    from tests.commands import ended

    np.save(tmp_path / "poses.npy", integrate(parse("R60_L60", 10.0), 0.1).numpy())
    np.save(tmp_path / "frames.npy", np.random.default_rng(0).integers(0, 255, (16, 16, 24, 3), dtype=np.uint8))
    settings = ["world=recorded", f"world.folder={tmp_path}", "world.size=[16,24]", "world.chunk_px=3", "world.stride_px=1", "world.lead_in=2", "world.fov=80"]
    code, said = ended("calibrate.py", "backbone=rooms_tiny", *settings, "world.protocol=guided", "labels=new/labels.json", cwd=tmp_path)
    assert code == 0, said
    assert json.loads((tmp_path / "new" / "labels.json").read_text())["about"]["chunks"] > 0


def test_labels_go_where_the_command_says(tmp_path, monkeypatch, capsys):
    """Signs that Hydra takes for its own, and the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    world = ["world=rooms_tiny", "backbone=rooms_tiny", "world.trajectories=1"]
    monkeypatch.setattr("sys.argv", ["calibrate.py", *world, "labels=~/a=(1).json"])
    calibrate_main()
    assert json.loads((tmp_path / "a=(1).json").read_text())["reach"] and not Path("~").exists()


def test_the_shipped_model_has_its_labels():
    backbone = RoomsBackbone(device="cpu")
    about = json.loads((LABELS / file_name(backbone.geometry)).read_text())["about"]
    reach = labels_of("auto", backbone.geometry)
    assert about["chunks"] >= 20 and reach.shape == (backbone.geometry.layers, backbone.geometry.heads) and 0 < reach.min() < reach.max() < 1
    path = make_world(["R90_L90"], size=(64, 64), degrees=10.0).trajectory(0)
    policy = WatchReachPolicy(FullPolicy(), returns(path, backbone))
    rollout(backbone, policy, GpuStore(), path, 0, backbone.encode(path.images)[:9])
    close = np.corrcoef(policy.reach.mean.flatten(), reach.flatten())[0, 1]
    assert close > 0.7, f"labels of other weights (correlation {close:.2f}): python harness/calibrate.py backbone=rooms"
