"""A session that one steps, forks and leaves: the same bits as a rollout, whatever is known of the path ahead."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from backbones.rooms import TinyRoomsBackbone
from harness.cache.disk import DiskStore
from harness.cache.stores import GpuStore, PinnedStore
from harness.cache.tiers import TieredStore
from harness.rollout import rollout
from harness.session import Session
from harness.trajectory import Trajectory
from harness.worlds.poses import integrate, pinhole
from tests.conftest import make_policy

CHUNKS = 11  # of the trajectory
COST = ("attended_rows", "window_bytes", "bank_bytes_gpu", "bank_bytes_cpu", "unreachable_frames", "retrieved", "attended", "unreachable", "stored", "taken")
KINDS = (
    "full",
    "worldkv",
    "worldkv_rebased",
    "worldkv_release",
    "merge",
    "query",
    "attention",
    "reencode",
    "h2o",
    "quest",
    "tempcache",
    "capped",
    "places",
    "heads",
)


def first_chunk(path: Trajectory) -> Trajectory:
    """All that somebody knows who has not decided yet where to go."""
    return replace(path, c2w=path.c2w[:3], actions=path.actions[:3], intrinsics=path.intrinsics[:3])


def walk(session: Session, path: Trajectory, until: int) -> Session:
    """Step chunk by chunk, each pose told only when it is due."""
    for i in range(session.done, until):
        part = slice(3 * i, 3 * i + 3)
        session.step(path.c2w[part], path.actions[part], path.intrinsics[part])
    return session


def same(a, b) -> None:
    assert torch.equal(a.latents, b.latents) and torch.equal(a.frames, b.frames) and a.noise == b.noise
    assert [[getattr(s, c) for c in COST] for s in a.stats] == [[getattr(s, c) for c in COST] for s in b.stats]


@pytest.mark.parametrize("name", [*KINDS, "snapkv", "ema", "landmark", "fast_ar", "deep_forcing", "int4_places_coverage"])
def test_steps_into_the_unknown_equal_a_rollout(name, begin, roll, trajectory):
    same(walk(begin(name, path=first_chunk(trajectory)), trajectory, CHUNKS).rollout(), roll(make_policy(name)))


@pytest.mark.parametrize("name", KINDS)
def test_a_fork_and_what_it_was_forked_from_do_not_touch_each_other(name, begin, roll, trajectory):
    """One fork jumps back to where the camera was, one goes on along the path; the session itself goes on as if alone."""
    whole = roll(make_policy(name))
    session = begin(name)
    for _ in range(6):
        session.step()
    away, along = session.fork(), session.fork()
    away.step(trajectory.c2w[3:6])
    session.step()
    away.step(trajectory.c2w[9:12])
    while along.done < CHUNKS:
        along.step()
    while session.done < CHUNKS:
        session.step()
    same(session.rollout(), whole)
    same(along.rollout(), whole)
    assert torch.equal(away.latents.made[:18], whole.latents[:18]) and not torch.equal(away.latents.made[18:24], whole.latents[18:24])


def stores(folder: Path):
    sizes = {"gpu": 8_000, "cpu": 20_000}
    return {"gpu": GpuStore(), "cpu": PinnedStore(), "disk": DiskStore(folder=str(folder)), "tiered": TieredStore(limits=sizes, folder=str(folder))}


@pytest.mark.parametrize("kind", ["gpu", "cpu", "disk", "tiered"])
def test_a_fork_of_every_store(kind, begin, known, trajectory, tmp_path):
    """Both sides drop and replace pages afterwards; files of a fork go with it."""
    whole = known("worldkv")
    session = begin("worldkv", stores(tmp_path)[kind])
    for _ in range(6):
        session.step()
    fork = session.fork()
    for f in list(session.cache.bank.frames)[4:6]:
        fork.cache.bank.drop(f)
    while session.done < CHUNKS:
        session.step()
    assert torch.equal(session.rollout().latents, whole.latents)
    held = len(list(tmp_path.rglob("*.safetensors")))
    fork.close()
    assert kind in ("gpu", "cpu") or 0 < len(list(tmp_path.rglob("*.safetensors"))) < held
    session.close()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_fork_copies_no_page_of_the_bank(begin):
    session = begin("worldkv")
    for _ in range(8):
        session.step()
    ours, theirs = (s.cache.bank._below._pages for s in (session, session.fork()))
    assert ours.keys() == theirs.keys() and len(ours) > 6
    assert all(a is theirs[frame] for frame, a in ours.items())


class Counting(TinyRoomsBackbone):
    """A backbone whose chunks depend on how many came before: a state of its own, as a streaming decoder has."""

    def begin(self, trajectory):
        super().begin(trajectory)
        self.count = torch.zeros(1)

    def decode(self, latents):
        self.count = self.count + 1
        return (super().decode(latents) * 0.9 + 0.01 * self.count).clamp(0, 1)

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


def test_sessions_take_turns_on_one_backbone(trajectory):
    """Two policies side by side on one model, and a fork of one of them: each as if the model were its own."""
    shared, names = Counting(), ("worldkv", "sliding")
    forced = shared.encode(trajectory.images)[:3]
    alone = {n: rollout(Counting(), make_policy(n), GpuStore(), trajectory, 0, forced) for n in names}
    sessions = {n: Session.begin(shared, make_policy(n), GpuStore(), trajectory, 0, forced) for n in names}
    for i in range(CHUNKS):
        for session in sessions.values():
            session.step()
        if i == 4:
            fork = sessions["worldkv"].fork()
        elif i > 4:
            fork.step()
    for n in names:
        same(sessions[n].rollout(), alone[n])
    same(fork.rollout(), alone["worldkv"])
    del sessions, session
    same(rollout(shared, make_policy("sliding"), GpuStore(), trajectory, 0, forced), alone["sliding"])


def test_saved_and_opened_without_the_path(begin, known, trajectory, tmp_path, backbone):
    whole = known("worldkv")
    walk(begin("worldkv", path=first_chunk(trajectory)), trajectory, 6).save(tmp_path / "walk", {"by": "me"})
    with pytest.raises(ValueError, match="other settings: by is me there and absent here"):
        Session.open(tmp_path / "walk", backbone, make_policy("worldkv"), GpuStore())
    session = Session.open(tmp_path / "walk", backbone, make_policy("worldkv"), PinnedStore(), about={"by": "me"})
    assert session.done == 6 and session.path.name == trajectory.name
    assert torch.equal(walk(session, trajectory, CHUNKS).rollout().latents, whole.latents)


def test_keys_alone_lead_on_from_the_last_pose(backbone):
    images = torch.rand(3, 3, *backbone.size)
    intrinsics = pinhole(80.0, backbone.size, 1)[0]
    session = Session.begin(backbone, make_policy("worldkv"), GpuStore(), Trajectory.start(images, intrinsics, metres=0.1), 0, backbone.encode(images))
    session.step()
    keys = torch.zeros(6, 6)
    keys[:3, 4], keys[3:, 0] = 10.0, 1.0
    frames, stats = session.step(actions=keys[:3])
    assert frames.shape == (3, 3, *backbone.size) and stats.chunk == 1 and not stats.forced
    session.step(actions=keys[3:])
    expected = integrate(torch.cat([torch.zeros(1, 6), keys]), 0.1)[1:]
    assert torch.allclose(session.path.c2w[3:], expected, atol=1e-6)


def test_no_second_copy_of_a_backbones_state_is_kept(begin):
    first = begin()
    first.step()
    fork = first.fork()
    fork.step()
    first.step()
    assert first.turn.state is None and fork.turn.state is not None


@pytest.mark.parametrize("name", ["full", "worldkv", "h2o"])
def test_a_fork_of_an_opened_session_is_that_of_the_saved_one(name, begin, trajectory, tmp_path, backbone):
    """Its window has the saved rows before the first step, and they are counted."""
    session = walk(begin(name), trajectory, 6)
    session.save(tmp_path / "walk")
    opened = Session.open(tmp_path / "walk", backbone, make_policy(name), GpuStore(), trajectory)
    assert opened.cache.bank.stored_bytes == session.cache.bank.stored_bytes
    forks = [s.fork() for s in (session, opened)]
    assert torch.equal(*(fork.revisit(range(3, 6))[0] for fork in forks))
