"""The stopwatch: parts add up, land where they belong, and measuring changes nothing."""

import time

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbones import lingbot
from backbones.rooms import TinyRoomsBackbone
from harness.benchmark.measure import COLUMNS, markdown, measure, there_and_back
from harness.benchmark.timing import PARTS, Stopwatch, time_contiguous, time_last_chunk
from harness.cache.stores import GpuStore
from harness.policy import PolicyWrapper
from harness.rollout import rollout
from tests.conftest import CONF, make_policy


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
    begin = watch._now()
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
    whole = watch._now() - begin
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


@pytest.mark.parametrize("where", ["plan", "attention", "commit"])
def test_a_slow_part_shows_where_it_is(tiny, where):
    quick, *_ = timed(tiny, make_policy("worldkv"))
    slow, *_ = timed(tiny, Slow(make_policy("worldkv"), where))
    wasted = {"plan": 0.05, "attention": 0.01 * 2 * 5, "commit": 0.05}[where]
    assert slow.seconds[where] - quick.seconds[where] == pytest.approx(wasted, rel=0.3)
    assert slow.seconds.keys() == set(PARTS) and min(slow.seconds.values()) >= 0


@pytest.mark.parametrize("make", [lambda tiny: tiny, lambda tiny: TinyRoomsBackbone()], ids=["lingbot", "rooms"])
def test_measuring_changes_nothing(tiny, make):
    backbone = make(tiny)
    seen, trajectory, past = timed(backbone, make_policy("worldkv"))
    plain = rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0, past)
    assert torch.equal(seen.latents, plain.latents)
    assert seen.rows == plain.stats[-1].attended_rows
    assert seen.total == pytest.approx(sum(seen.seconds.values()))
    assert time_contiguous(backbone, trajectory, seen.rows) > 0


def test_a_row_for_every_mode():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("bench", ["backbone=rooms_tiny", "repeats=1", "chunk=5"])
    rows = measure(cfg)
    assert list(rows) == list(cfg.modes)
    text = markdown(rows, {"device": "a machine", "versions": {"torch": "2"}, "clock": "CPU time", "model": "rooms"}, "python harness/bench.py")
    for name, row in rows.items():
        assert set(row) == set(COLUMNS)
        assert f"| {name} |" in text
    assert rows["full"]["frames"] == 18 and rows["sliding 9"]["frames"] == 9
