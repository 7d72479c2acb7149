"""The stopwatch: parts add up, land where they belong, and measuring changes nothing."""

import os
import re
import shlex
import signal
import time

import pytest
import torch

from backbones import lingbot
from backbones.rooms import TinyRoomsBackbone
from harness.benchmark import command
from harness.benchmark.measure import measure, there_and_back
from harness.benchmark.stopwatch import ReadyWindow, Stopwatch
from harness.benchmark.table import COLUMNS, PARTS, markdown, summary
from harness.benchmark.timed import TimedBackbone
from harness.benchmark.timing import time_last_chunk
from harness.cache.stores import GpuStore
from harness.policy import PolicyWrapper
from harness.rollout import rollout
from harness.settings.build import build
from tests.commands import Command
from tests.conftest import make_policy, with_arm


@pytest.fixture(scope="module")
def tiny():
    return lingbot.load("random", size=(64, 96), dtype="float32", device="cpu", sizes=dict(dim=64, heads=2, layers=2, ffn=128, context_dim=32))


def timed(backbone, policy, chunks=5):
    trajectory = there_and_back(backbone.geometry, chunks, backbone.size)
    rng = torch.Generator().manual_seed(1)
    past = torch.cat([backbone.noise(rng)[0] for _ in range(chunks - 1)])
    return time_last_chunk(backbone, policy, GpuStore(), trajectory, 0, past), trajectory, past


def test_nested_parts_are_not_counted_twice():
    watch = Stopwatch(torch.device("cpu"))
    begin = watch.now()
    with watch("network"):
        _burn(0.02)
        with watch("attention"):
            _burn(0.03)
        _burn(0.01)
    with watch("commit"):
        _burn(0.01)
    assert watch.seconds["network"] == pytest.approx(0.03, abs=0.01)
    assert watch.seconds["attention"] == pytest.approx(0.03, abs=0.01)
    watch.stop()
    whole = watch.now() - begin
    _burn(0.02)
    with watch("plan"):
        pass
    assert sum(watch.seconds.values()) == pytest.approx(whole, abs=1e-3), "what comes after stop belongs to no chunk"


def _burn(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


class Slow(PolicyWrapper):
    def __init__(self, inner, where):
        self.inner, self.where = inner, where

    def plan(self, chunk, bank):
        _burn(0.05 * (self.where == "plan"))
        return super().plan(chunk, bank)

    def attend(self, q, k, v, site):
        _burn(0.01 * (self.where == "attention"))
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        _burn(0.05 * (self.where == "commit"))
        super().commit(chunk, kv, bank)


@pytest.mark.parametrize("name", ["worldkv", "query"])
def test_the_condition_is_the_networks(name, monkeypatch):
    """The chunk begins with it: what it takes is in the chunk's time, in that of the ready window, and in no part of the memory's."""
    backbone = TinyRoomsBackbone()
    quick, *_ = timed(backbone, make_policy(name))
    condition = backbone.condition
    monkeypatch.setattr(backbone, "condition", lambda *a: (_burn(0.2), condition(*a))[1])
    slow, *_ = timed(backbone, make_policy(name))
    assert slow.seconds["network"] - quick.seconds["network"] == pytest.approx(0.2, rel=0.3)
    assert slow.contiguous - quick.contiguous == pytest.approx(0.2, rel=0.3) and slow.seconds["plan"] + slow.seconds["assembly"] < 0.1


def test_a_rollouts_condition_is_no_part_of_assembly(monkeypatch):
    backbone, trajectory = TinyRoomsBackbone(), there_and_back(TinyRoomsBackbone().geometry, 4, (16, 24))
    condition = backbone.condition
    monkeypatch.setattr(backbone, "condition", lambda *a: (_burn(0.1), condition(*a))[1])
    for name in ("worldkv", "query"):
        stats = rollout(backbone, make_policy(name), GpuStore(), trajectory, 0, backbone.encode(trajectory.images)).stats[-1]
        assert stats.seconds_passes > 0.1 and max(stats.seconds_plan, stats.seconds_assemble) < 0.1


@pytest.mark.parametrize("where", ["plan", "attention", "commit"])
def test_a_slow_part_shows_where_it_is(tiny, where):
    quick, *_ = timed(tiny, make_policy("worldkv"))
    slow, *_ = timed(tiny, Slow(make_policy("worldkv"), where))
    wasted = {"plan": 0.05, "attention": 0.01 * 2 * 5, "commit": 0.05}[where]
    assert slow.seconds[where] - quick.seconds[where] == pytest.approx(wasted, rel=0.3)
    assert slow.seconds.keys() == set(PARTS) and min(slow.seconds.values()) >= 0
    assert slow.contiguous < slow.total - wasted, "a window that lies ready is not slowed by what a policy does"


@pytest.mark.parametrize("make", [lambda tiny: tiny, lambda tiny: TinyRoomsBackbone()], ids=["lingbot", "rooms"])
def test_measuring_changes_nothing(tiny, make):
    backbone = make(tiny)
    seen, trajectory, past = timed(backbone, make_policy("worldkv"))
    plain = rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0, past)
    assert torch.equal(seen.latents, plain.latents)
    assert seen.rows == plain.stats[-1].attended_rows
    assert seen.total == pytest.approx(sum(seen.seconds.values()))
    assert seen.contiguous > 0


def test_the_ready_window_is_the_chunks_own(tiny, monkeypatch):
    """With one pass beside each of the chunk's, over the very keys and values that it attended to."""
    looked: list[tuple[torch.Size, torch.Tensor]] = []
    ready = "harness.benchmark.stopwatch.dense"

    def see(q, k, v, *rest):
        looked.append((k.shape, k.clone()))
        return dense(q, k, v, *rest)

    dense = __import__("harness.cache.attention", fromlist=["dense"]).dense
    monkeypatch.setattr(ready, see)
    seen, *_ = timed(tiny, make_policy("full"))
    own = [k for shape, k in looked if shape[1] == seen.rows]
    assert len(own) == tiny.geometry.layers * (len(tiny.timesteps) + 1), "every layer of every pass"
    assert all(torch.equal(k, own[i % tiny.geometry.layers]) for i, k in enumerate(own)), "prepared once"


class Once(PolicyWrapper):
    """A backbone's passes, counted by their attention calls of layer 0."""

    def __init__(self, inner):
        self.inner, self.passes = inner, 0

    def attend(self, q, k, v, site):
        self.passes += site.layer == 0 and not site.cross
        return super().attend(q, k, v, site)


def test_a_clean_pass_that_must_not_run_twice_does_not(tiny, monkeypatch):
    monkeypatch.setattr(type(tiny), "repeatable", False)
    counted = Once(make_policy("full"))
    seen, *_ = timed(tiny, counted)
    assert counted.passes == 4 + len(tiny.timesteps) + 1
    assert seen.contiguous > 0


def test_a_row_for_every_mode():
    cfg = command.settings(["backbone=rooms_tiny", "repeats=2", "chunk=5"])
    samples: dict[str, list[dict[str, float]]] = {}
    order = []
    for name, row in measure(cfg):
        samples.setdefault(name, []).append(row)
        order.append(name)
    assert order == [*cfg.modes, *reversed(list(cfg.modes))], "modes take turns, there and back"
    rows = summary(samples)
    text = markdown(rows, {"device": "a machine", "versions": {"torch": "2"}, "clock": "CPU time", "model": "rooms"}, "python harness/bench.py")
    for name, row in rows.items():
        assert set(row) == set(COLUMNS)
        assert f"| {name} | {row['chunk s'].median:.3g} [" in text
        assert row["chunk s"].low <= row["chunk s"].median <= row["chunk s"].high and row["chunk s"].n == 2
    assert rows["full"]["frames"].median == 18 and rows["sliding 9"]["frames"].median == 9
    with pytest.raises(ValueError, match="repeats=0: use a whole number from 1"):
        command.checked(command.settings(["repeats=0"]))


def test_every_mode_has_the_weights_that_it_needs():
    """Trained memories of one bench are on different weights; a backbone without arms says so before anything is measured."""
    cfg = command.settings(["backbone=rooms_tiny", "modes=trained", "repeats=1", "chunk=5"])
    with pytest.raises(ValueError, match="needs weights of the arm control"):
        next(measure(command.settings(["backbone.size=[64,96]", "modes=trained"])))
    rows = dict(measure(cfg))
    assert list(rows) == list(cfg.modes)
    assert rows["trained_compressed"]["frames"] < rows["full"]["frames"]
    assert rows["trained_geometry"]["network ms"] > rows["sink_recent"]["network ms"], "pictures of the past are warped"


EXAMPLES = re.findall(r"^python harness/bench.py ?(.*?)(?:   .*)?$", command.__doc__, re.M)
assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("line", EXAMPLES, ids=lambda line: line or "none")
def test_every_example_of_the_help_composes(line):
    cfg = command.settings(shlex.split(line))
    assert cfg.modes.worldkv == ["policy=worldkv"]
    if "mine" in line:
        assert list(cfg.modes.mine) == ["policy=worldkv", "policy.retrieved=15"]
        assert build(command_policy(cfg.modes.mine), "policy").retrieved == 15


def command_policy(settings):
    from harness.benchmark.measure import _policy

    return _policy(settings, [])


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_half_way_it_shows_what_it_has(tmp_path, number, status):
    """One small mode many times; stopped after its second measurement."""
    settings = ["backbone=rooms_tiny", "repeats=500", "chunk=5", "docs=page.md", "out=figures.json"]
    process = Command("bench.py", *settings, cwd=tmp_path, env=os.environ | {"COLUMNS": "150"})
    process.until(lambda: "[2/" in process.output)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == status, out
    assert out.startswith("chunk 5 of rooms.TinyRoomsBackbone: 9 modes, 500 repeats"), "something at once"
    assert "full" in out and "sink 3 + recent 3" in out and "chunk / contiguous" in out
    assert re.search(r"stopped after \d+ of 4500 measurements", out)
    assert (tmp_path / "figures.json").exists() and not (tmp_path / "page.md").exists(), "a page is of a whole bench"


@pytest.mark.parametrize("name", ["query", "reencode"])
def test_what_runs_before_the_chunks_own_passes_is_the_policys_price(name):
    """A probe, and chunks that are encoded again: the ready window is the chunk's own, with as many passes beside it as the chunk has."""
    tiny, looked = TinyRoomsBackbone(), []
    ready = ReadyWindow.__call__

    def see(self, layer, q, k, v):
        looked.append(len(self._rows[layer][0][0]))
        return ready(self, layer, q, k, v)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ReadyWindow, "__call__", see)
        seen, trajectory, past = timed(tiny, make_policy(name))
    assert looked == [seen.rows] * (tiny.geometry.layers * (len(tiny.timesteps) + 1))
    plain = rollout(tiny, make_policy(name), GpuStore(), trajectory, 0, past)
    assert torch.equal(seen.latents, plain.latents) and 0 < seen.contiguous < seen.total


def test_arms_and_policies_that_ask_for_depth_are_measured():
    seen, *_ = timed(with_arm("recurrent"), make_policy("trained_recurrent"))
    assert seen.total > 0
    assert TimedBackbone(with_arm("recurrent"), Stopwatch(torch.device("cpu")), None, 1).repeatable is False
