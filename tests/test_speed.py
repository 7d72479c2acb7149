"""Cost over the rollout, and the price of retrieval, on the shipped model."""

import time
from dataclasses import replace

import numpy as np
import pytest

from backbones.rooms import RoomsBackbone
from harness.cache.stores import GpuStore
from harness.datatypes import Geometry
from harness.rollout import rollout
from harness.worlds.render import render
from harness.worlds.rooms import make_room
from tests.conftest import make_policy, make_world
from tests.some_houses import make_world as make_house_world
from tests.test_windows import committed


def test_cost_grows_for_full_and_is_flat_for_windows(roll):
    long = make_world(["R90L90R90L90R90L90R90L90"], degrees=5.0).trajectory(0)
    rows = {n: [s.attended_rows for s in roll(make_policy(n), path=long).stats] for n in ("full", "worldkv", "sliding")}
    assert len(rows["full"]) >= 40
    assert rows["full"] == [18 * (i + 1) for i in range(len(rows["full"]))]
    for name in ("worldkv", "sliding"):
        assert len(set(rows[name][-30:])) == 1


def test_a_house_costs_little_more_to_render_than_a_room():
    """Frames of 64x64 pixels, the fastest of four each. Measured 1.9 and 2.2 times; 1.5 was aimed at: rays go on through doorways."""

    def seconds(scene, path) -> float:
        found = []
        for _ in range(4):
            start = time.process_time()
            render(scene, path.c2w, path.intrinsics, (64, 64))
            found.append((time.process_time() - start) / len(path.c2w))
        return min(found)

    houses, rooms = make_house_world("houses", trajectories=2), make_world(["R180_L180"], trajectories=2, size=(64, 64))
    a_house = [seconds(houses.find(i)[0].scene, houses.trajectory(i)) for i in range(2)]
    a_room = [seconds(make_room(rooms.seeds[i]).scene, rooms.trajectory(i)) for i in range(2)]
    print(f"a house's frame takes {sum(a_house) / sum(a_room):.2f} times a room's")
    assert sum(a_house) <= 3 * sum(a_room)


def test_retrieval_costs_at_most_a_tenth():
    """Processor time of worldkv's last chunks against sink_recent's at the same window (18 frames): assembly is once per chunk.

    Interleaved rollouts; each chunk counts with its fastest of seven, which is what a busy machine disturbs least.
    """
    backbone = RoomsBackbone(device="cpu")
    world = make_world(["R180_L180"], size=(64, 64), degrees=10.0, move_frames=6)
    trajectory = world.trajectory(0)
    forced = backbone.encode(trajectory.images)[:3]
    seconds: dict[str, list[np.ndarray]] = {"worldkv": [], "sink_recent": []}
    rows = {}
    for _ in range(7):
        for name, runs in seconds.items():
            ends: list[float] = []
            stats = rollout(backbone, make_policy(name), GpuStore(), trajectory, 0, forced, lambda _, ends=ends: ends.append(time.process_time())).stats
            runs.append(np.diff(ends)[-6:])
            rows[name] = stats[-1].attended_rows
    assert rows["worldkv"] == rows["sink_recent"] == 18 * 64
    total = {name: np.array(runs).min(0).sum() for name, runs in seconds.items()}
    ratio = total["worldkv"] / total["sink_recent"]
    print(f"worldkv takes {ratio:.3f} of sink_recent's processor time")
    assert ratio <= 1.10


@pytest.fixture(scope="module")
def passes():
    """Processor seconds of the passes of one generated chunk of the shipped model, in a window of 18 frames."""
    backbone = RoomsBackbone(device="cpu")
    trajectory = make_world(["R180_L180"], size=(64, 64), degrees=10.0, move_frames=6).trajectory(0)
    forced = backbone.encode(trajectory.images)[:3]
    parts = [replace(trajectory, **{n: getattr(trajectory, n)[: 3 * chunks] for n in ("c2w", "intrinsics", "actions")}, pairs=()) for chunks in (7, 11)]
    seconds: list[list[float]] = [[], []]
    for _ in range(3):  # the fastest of each: the difference of two single measures was 3 times too small on a busy machine
        for part, found in zip(parts, seconds, strict=True):
            start = time.process_time()
            rollout(backbone, make_policy("sink_recent"), GpuStore(), part, 0, forced)
            found.append(time.process_time() - start)
    return (min(seconds[1]) - min(seconds[0])) / 4


@pytest.mark.parametrize(
    ("name", "walk", "most"),
    [
        *((name, False, 0.02) for name in ("worldkv", "fov", "latent", "places")),
        ("coverage", False, 0.03),  # measured 0.7 to 1.3 %, and before frusta were kept, beside two other processes, up to 2.5 % on a Xeon
        ("lookahead", False, 0.03),  # by the views of three chunks, twice: measured 0.6 to 1.5 %
        # a thousand places, in sight of one another: measured 0.3 to 0.6, 1.6 to 3.0, 1.1 to 1.6 and 1.1 to 2.1 % on an EPYC, in five runs
        *(("worldkv", True, 0.02), ("coverage", True, 0.04), ("fov", True, 0.04), ("places", True, 0.04)),
    ],
)
def test_planning_stays_small_over_a_thousand_chunks(name, walk, most, passes):
    """Plan and commit after a thousand chunks, round the same place or on a walk that never comes to the same view twice; the cache is tiny, so that
    only a policy's own work counts."""
    commits: list[float] = []
    policy, bank, chunk = committed(make_policy(name), Geometry(1, 1, 2, 4, 3), 1000, turn=10.0, seconds=commits if name == "places" else None, walk=walk)
    seconds = []
    for _ in range(60):
        start = time.process_time()
        policy.plan(chunk, bank)
        seconds.append(time.process_time() - start)
    share = (min(seconds) + min(commits[-10:], default=0.0)) / passes
    print(f"{name}: {100 * share:.2f} % of the passes")
    assert share <= most
