"""The walk: panes in step, another policy on the way, remembered places, a world without a truth, saving and opening."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.playing import saving
from harness.playing.camera import read_script
from harness.playing.command import Asked
from harness.playing.command import _walk as walk_of
from harness.playing.hub import Hub
from harness.playing.setup import Choice, Setup
from harness.playing.walk import Walk
from harness.rollout import rollout
from tests.conftest import make_policy
from tests.play_pages import SLIDING, TINY, WORLDKV


@pytest.fixture(scope="module")
def setup():
    return Setup(TINY)


@pytest.fixture
def walk(setup):
    told = []
    made = Walk(setup, [WORLDKV, SLIDING], lambda about, *pictures: told.append(about))
    made.told = told
    made.begin()
    yield made
    made.close()


def steps(walk, script):
    for keys in read_script(script):
        walk.step(keys)


def test_a_world_without_a_truth_is_walked_without_one(tmp_path):
    """`world=recorded`: no map of rooms, no walls, no PSNR; also the first step of a user's own image."""
    import imageio.v3 as iio

    np.save(tmp_path / "poses.npy", np.eye(4)[None].repeat(4, 0))
    np.save(tmp_path / "intrinsics.npy", np.array([[416.0, 240.0, 416.0, 240.0]]))
    iio.imwrite(tmp_path / "first.png", np.full((32, 48, 3), 90, np.uint8))
    told = []
    walk = Walk(
        Setup(("backbone=rooms_tiny", "world=recorded", f"world.folder={tmp_path}", "world.size=[16,24]")), [SLIDING], lambda about, *p: told.append(about)
    )
    walk.begin()
    for _ in range(2):
        assert walk.step(frozenset("W"))
    assert walk.done == 3 and walk.described()["plan"] is None and walk.panes[0].psnr == [None] * 3
    assert told[-1]["camera"][-1][1] == pytest.approx(6 * 0.12, abs=1e-3)
    walk.close()
    with pytest.raises(ValueError, match="start=3, but the world has 1 trajectories"):
        _ = Setup(("backbone=rooms_tiny", "world=recorded", f"world.folder={tmp_path}"), 3).start


def test_panes_walk_in_step_and_equal_a_rollout(walk, setup):
    """The same frames as the main job's loop along the path that was walked; same poses and noise in both panes."""
    steps(walk, "right*4 left*4 W")
    path, forced = walk.path, setup.backbone.encode(setup.start.images)
    for pane, name in zip(walk.panes, ("worldkv", "sliding"), strict=True):
        alone = rollout(setup.backbone, make_policy(name), make_store(), replace(path, metres=0.0), setup.cfg.seed, forced)
        assert torch.equal(alone.frames, pane.session.frames.made) and alone.noise == pane.session.noise
    cameras = [m for m in walk.told if m["type"] == "camera"]
    assert cameras[-2]["visit"]["frame"] <= 2 and cameras[-2]["visit"]["psnr"], "back at the start"
    assert "U" in walk.panes[1].described()["states"] and "U" not in walk.panes[0].described()["states"]


def make_store():
    from harness.cache.stores import GpuStore

    return GpuStore()


def test_another_policy_reads_the_walk_again(walk, setup):
    """From the next chunk on it is as if it had been forced through the walk so far; the other pane does not notice."""
    steps(walk, "right*3 left*2")
    latents = walk.panes[0].session.latents.made.clone()
    walk.choose(1, Choice("worldkv", "w12", 0.5))
    assert torch.equal(walk.panes[1].session.latents.made, walk.panes[1].session.forced) and walk.panes[1].since == 6
    assert torch.equal(walk.panes[0].session.latents.made, latents)
    steps(walk, "left")
    alone = rollout(
        setup.backbone, make_policy("worldkv", "budget=w12", "policy.compressor.ratio=0.5"), make_store(), walk.path, 0, walk.panes[1].session.forced
    )
    assert torch.equal(alone.latents, walk.panes[1].session.latents.made)
    with pytest.raises(ValueError, match="sliding compresses nothing"):
        walk.choose(0, Choice("sliding", "w18", 0.5))
    assert walk.panes[0].made.choice == WORLDKV, "the old one stays"
    walk.choose(2, SLIDING)
    walk.drop(1)
    assert [p.made.choice.policy for p in walk.panes] == ["worldkv", "sliding"]


def test_remember_and_go_back(walk):
    steps(walk, "right*3")
    walk.remember()
    steps(walk, "W left")
    first = [p.session.latents.made.clone() for p in walk.panes]
    for _ in range(2):
        walk.back(0)
        assert walk.done == 4 and len(walk.panes[0].pictures) == len(walk.true_pictures) == 12
        steps(walk, "W left")
        assert all(torch.equal(a, p.session.latents.made) for a, p in zip(first, walk.panes, strict=True))
    walk.forget(0)
    with pytest.raises(ValueError, match="no remembered place 1 of 0"):
        walk.back(0)


def test_a_walk_that_broke_goes_on_from_a_mark(walk, setup, monkeypatch):
    walk.remember()
    monkeypatch.setattr(setup.backbone, "renoise", lambda x0, t, noise: x0 * float("nan"))
    with pytest.raises(FloatingPointError):
        walk.step(frozenset({"right"}))
    monkeypatch.undo()
    for further in (lambda: walk.step(frozenset({"right"})), lambda: walk.choose(1, SLIDING), walk.remember):
        with pytest.raises(ValueError, match="cannot go on.*NaN.*begin anew"):
            further()
    assert len(walk.panes) == len(walk.choices) and len(walk.marks) == 1
    walk.back(0)
    assert walk.step(frozenset({"right"})) and walk.done == 2


def test_saved_and_reopened(walk, setup, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="walk a chunk first"):
        saving.save(walk, "walk")
    steps(walk, "right*5 left*5")
    folder = saving.save(walk, "walk")
    described = walk.described()
    steps(walk, "W right")
    after = [p.session.latents.made.clone() for p in walk.panes]
    saving.reopen(walk, folder)
    changed = {k for k, v in walk.described().items() if v != described[k]}
    assert changed == {"version"}
    steps(walk, "W right")
    assert all(torch.equal(a, p.session.latents.made) for a, p in zip(after, walk.panes, strict=True))
    with pytest.raises(ValueError, match=r"walked with backbone=rooms_tiny.*open it by: python harness/play.py open="):
        saving.reopen(Walk(Setup((*TINY, "seed=1")), [SLIDING], print), folder)
    opened, choices = walk_of(Asked(open=str(folder)))
    assert opened == Setup(TINY) and choices == [WORLDKV, SLIDING], "open=FOLDER brings its own settings"
    with pytest.raises(ValueError, match=r"brings its own settings \(backbone=rooms_tiny.*leave out seed=1"):
        walk_of(Asked(open=str(folder), rest=("seed=1",)))
    with pytest.raises(ValueError, match="holds no saved walk.*walks in outputs/play: walk"):
        walk_of(Asked(open="elsewhere"))
    for name in ("../x", ".x", "a b"):
        with pytest.raises(ValueError, match="no name for a walk"):
            saving.save(walk, name)

    from harness.reporting import data, groups

    report = data.report("walk", *groups.read_runs(folder))
    assert [r["policy"] for r in report["runs"]] == ["worldkv", "sliding"] and len(report["groups"]) == 1
    assert all(r["films"] and r["films"][0]["pairs"] and r["films"][0]["truth"] for r in report["runs"])

    again = Setup((*TINY[:1], "world=recorded", f"world.folder={folder / 'path'}", "world.size=[16,24]"))._world.trajectory(0)
    assert again.name == setup.start.name and torch.allclose(again.c2w, described_path(described, walk)[: len(again.c2w)], atol=1e-6)
    assert torch.allclose(again.intrinsics[0], setup.start.intrinsics[0], atol=1e-3) and len(again.c2w) == 33
    assert np.abs(again.images[0].numpy() - setup.start.images[0].numpy()).max() < 1 / 255
    alone = rollout(setup.backbone, make_policy("sliding"), make_store(), again, 0, setup.backbone.encode(again.images)[:3])
    assert (alone.frames - walk.panes[1].session.frames.made[:33]).abs().max() < 0.02, "the recorded path gives the walk again"


def described_path(described, walk):
    return walk.path.c2w[: len(described["camera"])]


def test_settings_are_those_of_the_policies_that_one_asks_for(tmp_path):
    """`policy.budget` is no setting of the default policy, and a trained arm is that of its policy."""
    made, choices = walk_of(Asked.of(["policy=h2o", "policy.budget=6", *TINY]))
    assert made.cfg.policy.budget == 6 and made.make(choices[0]).settings["policy"]["budget"] == 6
    made, _ = walk_of(Asked.of(["policy=trained_control,sliding", "backbone=rooms"]))
    assert made.cfg.backbone.arm == "control"
    assert Asked.of([f"world.folder={tmp_path / 'a (1)'}"]).rest == (f"world.folder='{tmp_path / 'a (1)'}'",)
    for wrong in ("seconds=inf", "seconds=nan", "linger=nan", "linger=inf"):
        with pytest.raises(ValueError, match="use linger from 0"):
            Asked.of([wrong])


def test_a_saved_walk_keeps_its_policies_and_says_when_it_is_damaged(tmp_path):
    (tmp_path / "walk.json").write_text(json.dumps({"schema": saving.SCHEMA}))
    with pytest.raises(ValueError, match="holds no saved walk"):
        walk_of(Asked(open=str(tmp_path)))
    about = {"overrides": [], "index": 0, "camera": [0, 0, 0], "panes": [{"policy": "full", "budget": "w18", "ratio": None, "since": 1}]}
    (tmp_path / "walk.json").write_text(json.dumps({"schema": saving.SCHEMA} | about))
    with pytest.raises(ValueError, match="goes on with its own policies from its own start; leave out policy=full"):
        walk_of(Asked(open=str(tmp_path), policy="full"))


def test_a_walk_is_scored_by_the_metrics_of_a_run(tmp_path, monkeypatch):
    """Those over whole rollouts are left out, not taken for metrics of pairs."""
    monkeypatch.chdir(tmp_path)
    made = Walk(Setup((*TINY, "+metric.fid._target_=metrics.fid.FID", "+metric.fid.weights=null")), [SLIDING], lambda about, *pictures: None)
    made.begin()
    steps(made, "right*2 left*2")
    folder = saving.save(made, "walk")
    made.close()
    assert list(folder.glob("*/results.json"))


def test_a_page_that_fell_behind_is_told_its_role_again(walk):
    hub = Hub(1.0)
    one, other = hub.join(), hub.join()
    while not other.outbox.full():
        other.tell({"type": "x"})
    hub.pages.reverse()
    other.tell({"type": "x"})
    (head,) = [other.outbox.get_nowait() for _ in range(other.outbox.qsize())]
    assert json.loads(head[4:])["type"] == "role" and json.loads(head[4:])["walks"] and not one.walks
