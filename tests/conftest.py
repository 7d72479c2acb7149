"""Shared fixtures: the tiny backbone, a short revisit trajectory, policies from the real YAML files."""

import os

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbones.rooms import TinyRoomsBackbone
from harness.cache.disk import DiskStore
from harness.cache.stores import GpuStore, Store
from harness.outcome import Rollout
from harness.policy import CachePolicy
from harness.rollout import Snapshot, rollout
from harness.session import Session
from harness.settings.build import build, plain
from harness.trajectory import Trajectory
from harness.worlds.rooms_world import RoomsWorld

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
LONG = (  # files that start processes or wait, and those with a minute of rollouts
    "report_browser", "report_kinds", "entry_points", "live", "sweep", "sweep_kills", "run", "wandb_sweep", "policies", "packaging", "startup", "recipe",
    "playing_browser", "budgets", "budget_limits", "head_windows", "snapshot", "snapshot_faults", "tracking", "training", "training_parts", "arm_training",
    "arm_windows", "arms", "compile", "speed",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in two processes (pytest-xdist), single files in this one: a debugger and `-p no:xdist` work as ever,
    and -n says otherwise."""
    option = config.option
    files = any(".py" in argument for argument in config.args)
    worker = "PYTEST_XDIST_WORKER" in os.environ  # which is told of no number, and would start workers of its own
    if not worker and getattr(option, "numprocesses", 0) is None and not (files or option.usepdb or option.collectonly):
        option.numprocesses, option.dist = 2, "loadfile"  # by file: fixtures of a module are made once


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, so that no process ends with one of them while the other has nothing left."""
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONG)


def make_policy(name: str, *overrides: str) -> CachePolicy:
    return build(_policy_settings(name, *overrides), "policy")


@cache
def _policy_settings(name: str, *overrides: str) -> dict[str, Any]:
    """Composed once for all tests of a process, a thousand of which ask: Hydra takes 0.15 s each time. `build` takes a copy."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("config", [f"policy={name}", *overrides]).policy)


def make_world(specs: list[str], trajectories: int = 1, protocol: str = "guided", size: tuple[int, int] = (16, 24), **settings) -> RoomsWorld:
    defaults = dict(split="test", fov=80.0, step=0.12, degrees=15.0, move_frames=3, hold_frames=3, min_gap=6, overlap=0.5, chunk_px=3)
    return RoomsWorld(trajectories=trajectories, specs=specs, protocol=protocol, size=size, **(defaults | settings))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # bitwise comparisons, and no stalls beside other work


@pytest.fixture(scope="session")
def backbone() -> TinyRoomsBackbone:
    return TinyRoomsBackbone()


@cache
def with_arm(arm: str) -> TinyRoomsBackbone:
    """The tiny backbone with an arm's memory, untrained."""
    return TinyRoomsBackbone(arm=arm)


@pytest.fixture(scope="session")
def trajectory() -> Trajectory:
    """33 frames, 11 chunks: two turns out and back, so that every part of every policy's window is in use."""
    return make_world(["R90L90R60L60"], hold_frames=3, degrees=10.0).trajectory(0)


@pytest.fixture(scope="session")
def roll(backbone, trajectory):
    """Roll a policy out on the tiny backbone; the first chunk is given."""

    def run(policy: CachePolicy, store: Store | None = None, path: Trajectory = trajectory, seed: int = 0, given: int = 3) -> Rollout:
        model = backbone if policy.arm is None else with_arm(policy.arm)
        return rollout(model, policy, store or GpuStore(), path, seed, model.encode(path.images)[:given])

    return run


@pytest.fixture(scope="session")
def known(roll) -> Callable[..., Rollout]:
    """What a policy makes on that path, by its name and overrides: once a process, for all tests that compare others with it."""
    return cache(lambda name, *overrides: roll(make_policy(name, *overrides)))


@pytest.fixture
def disk(tmp_path):
    store = DiskStore(folder=str(tmp_path / "bank"))
    yield store
    store.close()


@pytest.fixture
def go(backbone, trajectory):
    """Roll a policy out with a snapshot that is saved or loaded; settings of `Snapshot`."""

    def run(name, store=None, path=trajectory, **snapshot):
        policy = make_policy(name) if isinstance(name, str) else name
        return rollout(backbone, policy, store or GpuStore(), path, 0, backbone.encode(path.images)[:3], snapshot=Snapshot(**snapshot))

    return run


@pytest.fixture
def begin(backbone, trajectory):
    """Begin a session on that path; settings of `Session.begin`."""

    def go(name="worldkv", store=None, path=trajectory, **settings):
        return Session.begin(backbone, make_policy(name), store or GpuStore(), path, 0, backbone.encode(trajectory.images)[:3], **settings)

    return go
