"""The chunk's time under every mode of a bench, sample by sample."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from harness.backbone import Backbone
from harness.benchmark.table import PARTS
from harness.benchmark.timing import ChunkTime, time_last_chunk
from harness.cache.stores import PackedStore
from harness.datatypes import Geometry
from harness.policy import CachePolicy
from harness.settings.build import build, plain
from harness.settings.command_line import CONF
from harness.settings.plugins import plugins_of, with_plugins
from harness.trajectory import Trajectory
from harness.worlds.poses import pinhole, rotation


def there_and_back(g: Geometry, chunks: int, size: tuple[int, int]) -> Trajectory:
    """A turn to the right for half of the rollout, and back: retrieval has something to find."""
    frames = g.frames_px(chunks * g.chunk)
    half = torch.arange(frames, dtype=torch.float32)
    yaw = torch.minimum(half, frames - 1 - half) * 180 / frames
    c2w = torch.eye(4).repeat(frames, 1, 1)
    c2w[:, :3, :3] = rotation(yaw, torch.zeros(frames))
    actions = torch.zeros(frames, 6)
    actions[1:, 4] = yaw.diff()
    return Trajectory("bench", c2w, pinhole(80.0, size, frames), actions, torch.full((g.chunk, 3, *size), 0.5), ())


def measure(cfg: DictConfig) -> Iterator[tuple[str, dict[str, float]]]:
    """A mode's name and its columns, once a repeat. Modes take turns, there and back, so that a machine that slows down slows all.

    Raises ValueError for settings that cannot work.
    """
    plugins = plugins_of([f"plugins=[{','.join(cfg.plugins)}]"])
    policies = {name: build(_policy(settings, cfg.plugins), f"modes.{name}: policy", CachePolicy, plugins) for name, settings in cfg.modes.items()}
    backbone = build(cfg.backbone, "backbone", Backbone, plugins)
    g: Geometry = backbone.geometry
    for policy in policies.values():
        policy.reset(g)  # what cannot work is said before minutes of measuring
    backbones = _with_arms(backbone, policies.values(), cfg.backbone, plugins)
    trajectory = there_and_back(g, cfg.chunk + 1, backbone.size)
    rng = torch.Generator().manual_seed(cfg.seed)
    past = torch.cat([backbone.noise(rng)[0].cpu() for _ in range(cfg.chunk)])
    warm_up = there_and_back(g, 2, backbone.size)
    for arm, policy in {policy.arm: policy for policy in policies.values()}.items():
        time_last_chunk(backbones[arm], policy, build(cfg.store, "store", PackedStore, plugins), warm_up, cfg.seed, past[: g.chunk])
    for repeat in range(cfg.repeats):
        for name in list(policies) if repeat % 2 == 0 else reversed(policies):
            policy, store = policies[name], build(cfg.store, "store", PackedStore, plugins)
            yield name, columns(time_last_chunk(backbones[policy.arm], policy, store, trajectory, cfg.seed, past), g)


def _with_arms(backbone: Backbone, policies: Iterable[CachePolicy], settings: DictConfig, plugins: Sequence[str]) -> dict[str | None, Backbone]:
    """The backbone by the arm that a policy needs; None: as the settings say. The policies were reset."""
    found = {None: backbone, backbone.arm: backbone}
    for policy in policies:
        if policy.arm not in found:
            found[policy.arm] = build({**plain(settings), "arm": policy.arm}, "backbone", Backbone, plugins) if "arm" in settings else backbone
        found[policy.arm].check_arm(policy.arm, type(policy).__name__)
    return found


def columns(timed: ChunkTime, g: Geometry) -> dict[str, float]:
    """The table's columns of one timed chunk."""
    return {
        "chunk s": timed.total,
        "frames": timed.rows / g.tokens,
        "attention": timed.seconds["attention"] / timed.total,
        **{f"{part} ms": 1e3 * timed.seconds[part] for part in PARTS},
        "overhead / attention": timed.overhead / timed.seconds["attention"],
        "chunk / contiguous": timed.total / timed.contiguous,
    }


def _policy(settings: list[str], plugins: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", with_plugins([*settings, f"plugins=[{','.join(plugins)}]"])).policy
