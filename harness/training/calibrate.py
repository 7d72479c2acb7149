"""Label the heads of a backbone by how far back they look when a place is seen again.

python harness/calibrate.py backbone=rooms world.trajectories=8 labels=FILE

The policy is full KV; trajectories are validation ones unless world.split says otherwise. Only chunks that return to a view count: while
everything is seen for the first time no head has a reason to look back. labels: the file (default: where policy=heads finds it).
"""

import sys
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from harness.backbone import Backbone
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from harness.settings.build import build, plain
from harness.settings.check import check, check_fields
from harness.settings.command_line import CONF, check_overrides, understood
from harness.settings.entry_point import entry_point
from harness.settings.main_job import GROUPS, MainSettings
from harness.settings.plugins import plugins_of, with_plugins
from harness.system.files import write_atomic
from harness.trajectory import Trajectory
from harness.worlds.base import World
from policies.full import FullPolicy
from policies.parts.reach import LABELS, file_name, labels_text
from policies.wrappers.watch_reach import WatchReachPolicy


@entry_point("nothing was written")
def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    arguments = understood(sys.argv[1:])
    overrides = [a for a in arguments if not a.startswith("labels=")]
    check_overrides(CONF, overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = compose("config", with_plugins(overrides)).world
        mine = [
            f"world.{key}={value}" for key, value in (("split", "validation"), ("trajectories", 8)) if key in given
        ]  # of worlds that are made, not recorded
        cfg = compose("config", with_plugins([*mine, *overrides]))
    check_fields({k: v for k, v in plain(cfg).items() if k not in GROUPS}, MainSettings)
    plugins = plugins_of([f"plugins=[{','.join(cfg.plugins)}]"])
    check(plain(cfg.world), "world", World, plugins)
    backbone = build(cfg.backbone, "backbone", Backbone, plugins)
    where = next((a.removeprefix("labels=").strip("'") for a in arguments if a.startswith("labels=")), None)
    path = Path(where).expanduser() if where else LABELS / file_name(backbone.geometry)
    path.parent.mkdir(parents=True, exist_ok=True)  # what cannot be made is said before the rollouts
    calibrate(cfg, backbone, path, overrides)


def calibrate(cfg: DictConfig, backbone: Backbone, path: Path, overrides: list[str]) -> None:
    """Raises ValueError for a world in which nothing is seen again."""
    world, total, chunks = build(cfg.world, "world", World, plugins_of([f"plugins=[{','.join(cfg.plugins)}]"])), 0.0, 0
    for i in range(len(world.names)):
        trajectory = world.trajectory(i)
        policy = WatchReachPolicy(FullPolicy(), returns(trajectory, backbone))
        given = backbone.encode(trajectory.images)
        rollout(backbone, policy, GpuStore(), trajectory, cfg.seed, given[: len(given) // backbone.geometry.chunk * backbone.geometry.chunk])
        total = total + policy.reach.mean * policy.reach.passes
        chunks += policy.reach.passes
        print(f"{trajectory.name}: {policy.reach.passes} chunks return, mean reach {policy.reach.mean.mean():.3f}", flush=True)
    if not isinstance(total, torch.Tensor) or not chunks:
        raise ValueError(f"no chunk of {len(world.names)} trajectories returns to a view; choose a world with revisits, or more trajectories")
    write_atomic(path, labels_text(total / chunks, backbone.geometry, {"settings": overrides, "trajectories": len(world.names), "chunks": chunks}))
    print(f"reach over {chunks} chunks, from {(total / chunks).min():.3f} to {(total / chunks).max():.3f}: {path}")


def returns(trajectory: Trajectory, backbone: Backbone) -> frozenset[int]:
    """Chunks with a video frame that shows a view again."""
    g = backbone.geometry
    latent = [0 if p.revisit == 0 else (p.revisit - 1) // g.stride_px + 1 for p in trajectory.pairs]
    return frozenset(f // g.chunk for f in latent)
