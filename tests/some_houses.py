"""Houses for the tests: worlds of them by their settings, poses anywhere in one, and the room of each pose."""

import torch
from hydra import compose, initialize_config_dir

from harness.settings.build import build
from harness.worlds.houses_world import HousesWorld
from harness.worlds.poses import rotation
from tests.conftest import CONF


def make_world(name: str = "houses_tiny", **settings) -> HousesWorld:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [f"world={name}", *(f"world.{k}={v}" for k, v in settings.items())])
    return build(cfg.world, "world")


def views(house, count, seed=0):
    """Poses anywhere that is free, with any heading and some pitch; a fifth of them in doorways."""
    g = torch.Generator().manual_seed(seed)
    rooms, spots = house.plan.rooms, []
    ends = [min(r.x0 for r in rooms), max(r.x1 for r in rooms), min(r.z0 for r in rooms), max(r.z1 for r in rooms)]
    while len(spots) < count:
        at = torch.rand(2, generator=g) * torch.tensor([ends[1] - ends[0], ends[3] - ends[2]]) + torch.tensor([ends[0], ends[2]])
        if len(spots) % 5 == 4:
            d = house.plan.doors[len(spots) % len(house.plan.doors)]
            at = torch.tensor([sum(d.at) / 2, d.middle] if d.axis == 0 else [d.middle, sum(d.at) / 2])
        if house.free(at[None]).all():
            spots.append(at)
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, :3, :3] = rotation(360 * torch.rand(count, generator=g), 60 * torch.rand(count, generator=g) - 30)
    c2w[:, [0, 2], 3] = torch.stack(spots)
    return c2w


def room_of(house, c2w):
    """The room of each pose, -1 in a doorway."""
    return [next((i for i, r in enumerate(house.plan.rooms) if r.x0 <= x <= r.x1 and r.z0 <= z <= r.z1), -1) for x, z in c2w[:, [0, 2], 3].tolist()]
