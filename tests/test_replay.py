"""Plans without a model: the same plans as with one, scored by a second route, in tables like any other run's."""

import json
import re
import resource
import shlex
import subprocess
import sys

import pytest
import torch

from harness.cache.stores import GpuStore
from harness.replaying import command
from harness.replaying.recorded import noise, recorded, sizes
from harness.replaying.replay import Task, begin, plans, refuse, replay
from harness.reporting import command as report
from harness.reporting.groups import read_runs
from harness.rollout import Snapshot, rollout
from harness.settings.build import build
from harness.settings.command_line import CONF, composed
from harness.worlds.base import World
from metrics.replay import Found, found, mean_found, stability
from tests.conftest import ROOT, make_policy, make_world

SMALL = ["world=houses_tiny", "world.trajectories=2", "world.chunks=18", "world.gap=2"]


@pytest.fixture(scope="module")
def path():
    return make_world(["R90L90R60L60"], hold_frames=3, degrees=10.0).trajectory(0)


def task(path, tokens=6, **changes):
    return Task(path, **(dict(content=noise(sizes(3, 1, tokens)), ground=None, sink=3, recent=3, scored=100) | changes))


def planned(task, name):
    policy = make_policy(name)
    return [plan.frames for _, plan, _ in plans(task, policy, begin(policy, task.geometry))]


@pytest.mark.parametrize(
    "name", ["worldkv", "coverage", "fov", "random", "recency", "oracle", "sliding", "full", "places", "kcentre", "landmark", "worldkv_release"]
)
def test_plans_are_those_of_a_rollout(name, path, backbone):
    """Frame by frame those that a model's rollout attends to, with as many of them unreachable."""
    made = rollout(backbone, make_policy(name), GpuStore(), path, 0, backbone.encode(path.images)[:3])
    assert planned(task(path, backbone.geometry.tokens), name) == [s.attended for s in made.stats] and any(s.attended for s in made.stats)
    values = replay(task(path, backbone.geometry.tokens), make_policy(name))
    assert values["cost/unreachable_frames"] == pytest.approx(sum(s.unreachable_frames for s in made.stats) / len(made.stats))


def brute(shown, fixed, back, size):
    """Points as a set; the chunks brought back, taken in the best order by trying them one after the other."""
    f, s, g = shown.shape
    of = [{(i, j) for i in range(f) for j in range(s) if shown[i, j, k]} for k in range(g)]
    past, window = set().union(*of), set().union(*(of[k] for k in fixed))
    due = past - window
    chunks = {c: set().union(*(of[k] for k in back if k // size == c)) for c in {k // size for k in back}}
    again = due & set().union(*chunks.values())
    left, rest, used = set(due), dict(chunks), 0
    while rest and max(len(v & left) for v in rest.values()):
        best = max(sorted(rest), key=lambda c: len(rest[c] & left))
        left -= rest.pop(best)
        used += 1
    misses = [c for c, v in chunks.items() if not v]
    return Found(f * s, len(due), len(again), len(chunks), len(chunks) - used - len(misses), len(misses), None)


def test_scores_by_a_second_route():
    rng = torch.Generator().manual_seed(0)
    for density in (0.02, 0.1, 0.4):
        shown = torch.rand(3, 16, 24, generator=rng) < density
        shown[:, :, 9:12] = False  # a chunk that shows nothing
        assert found(shown, [0, 1, 2, 21, 22, 23], [4, 5, 9, 10, 15, 17, 18], 3) == brute(shown, [0, 1, 2, 21, 22, 23], [4, 5, 9, 10, 15, 17, 18], 3)
    a = found(shown, [0], [9, 12], 3, frozenset({3, 5}))
    assert (a.chunks, a.misses, a.lookalikes) == (2, 1, 1), "chunk 3 stands where it looks alike, and shows nothing"
    values = mean_found([Found(10, 4, 3, 2, 1, 0, None), Found(10, 0, 0, 2, 0, 1, 1)])
    assert values == {"replay/surface": 0.75, "replay/due": 0.2, "replay/duplicates": 0.25, "replay/misses": 0.25, "replay/lookalikes": 0.5}
    assert mean_found([Found(10, 0, 0, 0, 0, 0, None)]) == {"replay/due": 0.0}, "what never occurred is left out"
    assert stability([[], [], [1, 2], [2, 3], [2, 3]]) == {"replay/stability": pytest.approx((0 + 1 / 3 + 1) / 3)} and stability([[], []]) == {}


def test_bounds():
    """Full KV shows all that can be shown, a window of sink and recent frames nothing more, and these selectors no more than the oracle."""
    path = make_world(["R180R90L60R60L60R60L90"], degrees=10.0, hold_frames=3).trajectory(0)  # 21 chunks
    one = {"full": [], **dict.fromkeys(("worldkv", "random", "oracle"), ["policy.retrieved=2"])}  # a chunk at half of its rows
    values = {n: replay(task(path, 16), make_policy(n, *settings)) for n, settings in one.items()}
    assert values["full"]["replay/surface"] == 1 and values["full"]["replay/stored"] == 63 and len({v["replay/due"] for v in values.values()}) == 1
    bare = replay(task(path), make_policy("sink_recent", "policy.sink=3", "policy.recent=3"))
    assert bare["replay/surface"] == bare["replay/frames"] == 0 and "replay/duplicates" not in bare
    assert values["random"]["replay/surface"] < values["oracle"]["replay/surface"] and values["worldkv"]["replay/surface"] <= values["oracle"]["replay/surface"]
    assert values["worldkv"]["replay/stored"] == 6 + 57 / 2, "half of what left the window"
    assert replay(task(path, scored=3), make_policy("full"))["replay/surface"] == 1 and len(task(path, scored=3).looked_at) == 3


def test_what_a_world_without_truth_gives(path):
    from dataclasses import replace

    values = replay(task(replace(path, overlap=None)), make_policy("worldkv"))
    assert "replay/surface" not in values and {"replay/stability", "replay/plan_ms", "replay/frames"} <= values.keys()


def test_look_alikes_are_rooms_that_look_alike_and_are_others():
    cfg, _ = composed(CONF, ["world=houses_twins", "world.split=validation", "world.trajectories=1", "world.size=[8,8]"])
    world = build(cfg.world, "world", World)
    house, tour = world.find(0)
    looks = [r.looks for r in house.plan.rooms]
    whole = Task(world.trajectory(0), noise(sizes(3, 1, 6)), world.ground(0), 3, 3, 10)

    def room(chunk):
        x, _, z = tour.c2w[3 * chunk + 1, :3, 3].tolist()
        return next((i for i, r in enumerate(house.plan.rooms) if r.x0 <= x <= r.x1 and r.z0 <= z <= r.z1), None)

    seen = 0
    for i in range(whole.total):
        here = room(i)
        expected = {c for c in range(i) if here is not None and room(c) not in (None, here) and looks[room(c)] == looks[here]}
        assert (whole.alike(i) or frozenset()) == expected
        seen += bool(expected)
    assert seen, "no twin was visited: this tests nothing"


@pytest.mark.parametrize(
    ("name", "why"),
    [("h2o", "rows of many frames"), ("tempcache", "rows of many frames"), ("query", "attention"), ("heads", "attention"), ("capped", "by the bytes")],
)
def test_what_needs_a_model_is_refused(name, why):
    with pytest.raises(ValueError, match=why):
        refuse(make_policy(name), name, sizes(3, 1, 6))


def test_recorded_latents_give_the_plans_of_the_rollout_that_they_are_of(path, backbone, tmp_path):
    made = rollout(backbone, make_policy("full"), GpuStore(), path, 0, backbone.encode(path.images)[:3], snapshot=Snapshot(save=tmp_path))
    content = recorded(tmp_path, path)
    assert torch.equal(content.latents, made.latents) and content.geometry.tokens == backbone.geometry.tokens
    again = rollout(backbone, make_policy("latent"), GpuStore(), path, 0, made.latents)
    assert planned(task(path, content=content), "latent") == [s.attended for s in again.stats]
    with pytest.raises(ValueError, match=r"recorded=.* has no snapshot of .*; name one of them \(recorded=FOLDER/NAME\)"):
        recorded(tmp_path / "nowhere", path)
    with pytest.raises(ValueError, match="made along another path"):
        recorded(tmp_path / path.name, make_world(["R90L90R60L60"], split="validation", hold_frames=3).trajectory(0))
    (tmp_path / path.name / "tensors.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        recorded(tmp_path, path)


def test_the_command_writes_runs_like_any_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command.main(["-m", "policy=worldkv,random", *SMALL])
    out = capsys.readouterr()
    assert "random" in out.out and "surface back" in out.out and "[2/2]" in out.err and "revisit pairs" not in out.out
    runs, unfinished = read_runs(tmp_path / "outputs" / "replay")
    assert sorted(r.label for r in runs) == ["random", "worldkv"] and not unfinished and {r.group for r in runs} == {0}
    assert all(r.results["summary"]["replay/surface"]["n"] == 2 for r in runs)
    assert all(n.startswith("validation") for n in runs[0].values), "what is tuned is tuned on validation seeds"
    command.main(["policy=coverage,worldkv", "policy.retrieved=3", *SMALL])
    runs, _ = read_runs(tmp_path / "outputs" / "replay")
    assert sorted(r.name for r in runs) == ["coverage retrieved=3", "random", "worldkv", "worldkv retrieved=3"] and {r.group for r in runs} == {0}
    command.main(["policy=worldkv", "sink=6", *SMALL])
    assert len({r.group for r in read_runs(tmp_path / "outputs" / "replay")[0]}) == 2, "another window counts other surface"
    for form in ("table", "md", "csv", "json"):
        capsys.readouterr()
        report.main([str(tmp_path / "outputs" / "replay"), "--no-page", "--baseline", "random", "--format", form])
        assert "worldkv" in capsys.readouterr().out
    report.main([str(tmp_path / "outputs" / "replay")])
    shown = json.loads((tmp_path / "outputs" / "replay" / "report" / "data.js").read_text().removeprefix("const REPORT = ").rstrip(";\n"))
    assert "replay/surface" in shown["runs"][0]["cells"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sink=-1"], "sink=-1: use a whole number from 0"),
        (["scored=0"], "scored=0"),
        (["policy.retrieved=abc"], "policy.retrieved='abc'"),
        (["polcy=worldkv"], "polcy"),
        (["policy=h2o"], "policy=h2o keeps rows of many frames"),
        (["policy=latent"], "recorded=FOLDER"),
        (["chunk=100"], "no two chunks of 100"),
        (["name=../x"], "name"),
    ],
)
def test_mistakes_are_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        command.main([*SMALL, *arguments])
    err = capsys.readouterr().err
    assert ended.value.code == 1 and message in err and "Traceback" not in err and not (tmp_path / "outputs").exists()


EXAMPLES = re.findall(r"^python harness/replay.py ?(.*?)(?:  .*)?$", command.__doc__, re.M)
assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_of_the_help_composes(line):
    found = command.jobs(shlex.split(line))
    assert found and all(j.settings["world"]["split"] == ("test" if "world.split=test" in line else "validation") for j in found)


def test_a_thousand_chunks_take_seconds(tmp_path):
    """The whole command. Measured: 16 s of CPU time for two policies; the limit leaves room for slower machines."""
    long = ["policy=worldkv", "world.trajectories=1", "world.chunks=1000", "world.size=[16,16]", "scored=50"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(ROOT / "harness" / "replay.py"), *long], cwd=tmp_path, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
