"""Tiers: the same bits wherever pages lie, limits that hold, and pages that come ahead."""

import time

import pytest
import torch

from harness.cache.bank import KVBank
from harness.cache.codecs import Fp8, Int4, Int8
from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.stores import GpuStore, PinnedStore
from harness.cache.tiers import TieredStore, size_of
from harness.rollout import rollout
from tests.conftest import make_policy

FRAME = 9216  # bytes of a whole frame of the tiny backbone
TINY = {"gpu": 4 * FRAME, "cpu": 8 * FRAME, "disk": None}


@pytest.fixture
def tiered(tmp_path):
    def make(limits=TINY, codec=None) -> TieredStore:
        made.append(TieredStore(codec, limits, str(tmp_path / "bank")))
        return made[-1]

    made: list[TieredStore] = []
    yield make
    for store in made:
        store.close()


def page(rows: int = 6, seed: int = 0, heads: bool = False) -> Page:
    rng = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, 3, 1, rows, 2, 32, generator=rng)
    if not heads:
        return Page(k, v, torch.rand(3, rows, 3, generator=rng))
    return Page(k, v, torch.rand(3, rows, 2, 3, generator=rng), torch.randint(0, 3, (3, rows, 2), generator=rng).float())


def equal(a: Page, b: Page) -> bool:
    parts = [(x, y) for x, y in ((a.k, b.k), (a.v, b.v), (a.positions, b.positions), (a.mass, b.mass)) if x is not None or y is not None]
    return all(x.dtype == y.dtype and torch.equal(x, y) for x, y in parts)


@pytest.mark.parametrize("name", ["worldkv", "worldkv_rebased", "worldkv_release", "merge", "sink_recent_rebased"])
def test_a_tier_changes_no_bit(name, roll, tiered, disk):
    """The matrix compares gpu and cpu for every policy."""
    wanted = roll(make_policy(name))
    for store in (PinnedStore(), disk, tiered()) + (tiered({"gpu": 0, "cpu": 3 * FRAME}), tiered({"gpu": 1, "cpu": 1})) * (name == "worldkv"):
        out = roll(make_policy(name), store)
        assert torch.equal(out.latents, wanted.latents)
        for a, b in zip(out.stats, wanted.stats, strict=True):
            ahead = b.bank_bytes_gpu - (a.bank_bytes_gpu + a.bank_bytes_cpu + a.bank_bytes_disk)
            assert ahead <= 0, "a page is nowhere"
            assert ahead == 0 or store.tier in ("disk", "tiered"), "only pages that are read ahead count twice"


@pytest.mark.parametrize("codec", [Int8(), Fp8(), Int4()], ids=["int8", "fp8", "int4"])
def test_moving_down_does_not_code_twice(codec, roll, tiered):
    wanted = roll(make_policy("worldkv"), GpuStore(codec)).latents
    assert torch.equal(roll(make_policy("worldkv"), tiered({k: v and v / 3 for k, v in TINY.items()}, codec)).latents, wanted)


@pytest.mark.parametrize("name", ["worldkv", "sink_recent_rebased"])
def test_limits_hold_at_every_step(name, roll, tiered, monkeypatch):
    store, used = tiered(), {"gpu": 0.0, "cpu": 0.0}

    def watch(self, level, frame, packed, inner=TieredStore._enter):
        entered = inner(self, level, frame, packed)
        for tier in used:
            used[tier] = max(used[tier], self.bytes_in(tier))
        return entered

    monkeypatch.setattr(TieredStore, "_enter", watch)
    out = roll(make_policy(name), store)
    assert all(s.bank_bytes_gpu <= TINY["gpu"] and s.bank_bytes_cpu <= TINY["cpu"] for s in out.stats)
    assert used["gpu"] <= TINY["gpu"] and TINY["cpu"] / 2 < used["cpu"] <= TINY["cpu"] + FRAME  # a page on its way down is in two tiers
    assert out.stats[-1].bank_bytes_disk > 0


def test_a_tier_without_a_limit_leaves_room_ahead(tiered):
    store = tiered({"gpu": 1000, "cpu": None})
    store.reset(torch.device("cpu"))
    assert store._room == [1000, float("inf"), float("inf")] and store._disk.room == 2**30


def test_rows_of_a_page_on_the_device_count_alike_in_every_store(backbone, tiered):
    """A page in the device's own tier counts by the rows that are taken; one in host memory comes whole."""
    whole = page(rows=6).k.nbytes * 2
    rows = torch.arange(3).expand(3, 3)  # half of one page's six

    def moved(store) -> int:
        store.reset(torch.device("cpu"))
        bank = KVBank(backbone.geometry, GpuStore(), store, raw_keys=True)
        store.put(0, page(rows=6))
        before = bank.bytes_moved
        bank.part((0,), rows)
        return bank.bytes_moved - before

    near, tier, far = moved(GpuStore()), moved(tiered()), moved(tiered({"gpu": 0, "cpu": None}))
    assert near == tier < far and near / far == pytest.approx(0.5, rel=0.1), whole


def test_the_last_limit_is_an_error_with_numbers(roll, tiered):
    with pytest.raises(ValueError, match=r"no tier has room for the [\d,]+ bytes of frame \d+: gpu [\d,]+ of .* disk .*raise store.limits.disk"):
        roll(make_policy("worldkv"), tiered({"gpu": 2 * FRAME, "cpu": 2 * FRAME, "disk": 2 * FRAME}))
    with pytest.raises(ValueError, match="no tier that may hold"):
        TieredStore(limits={"gpu": 0, "cpu": 0, "disk": 0})
    with pytest.raises(ValueError, match="no tier tape"):
        TieredStore(limits={"tape": 1})
    with pytest.raises(ValueError, match=r"store.limits.gpu='4 apples' is no size"):
        TieredStore(limits={"gpu": "4 apples"})
    assert [size_of(x, "") for x in (None, 0, 7, "2kB", "1.5 GiB", "1e3")] == [float("inf"), 0, 7, 2000, 1.5 * 2**30, 1000]


def test_the_least_recently_used_leave_first_and_planned_ones_last(tiered):
    store = tiered({"gpu": 3 * FRAME, "cpu": 0, "disk": None})
    store.reset(torch.device("cpu"))
    where = lambda: {f: TIERS[store._where[f]] for f in sorted(store.frames())}  # noqa: E731
    TIERS = ("gpu", "disk")
    for f in range(3):
        store.put(f, page(seed=f))
    store.get(0)
    store.put(3, page())
    assert where() == {0: "gpu", 1: "disk", 2: "gpu", 3: "gpu"}, "frame 0 was just read"
    store.ahead([2, 0])
    store.put(4, page())
    assert where()[3] == "disk", "frame 3 is younger than 2 and 0, but they are planned"
    store.put(5, page())
    store.put(6, page())
    assert where() == {0: "gpu", 1: "disk", 2: "gpu", 3: "disk", 4: "disk", 5: "disk", 6: "gpu"}
    assert all(equal(store.get(f), page(seed=f if f < 3 else 0)) for f in range(7))
    store.drop(2)
    assert store.bytes_in("gpu") == 2 * FRAME and store.nbytes == 6 * FRAME and store.moved == 4 * FRAME


class SlowDisk(DiskStore):
    """A disk that takes 30 ms a page."""

    reads = 0

    def _read(self, frame):
        time.sleep(0.03)
        self.reads += 1
        return super()._read(frame)


class Impatient(SlowDisk):
    def ahead(self, frames):
        pass


def test_the_next_plan_is_read_while_the_last_chunk_is_decoded(backbone, trajectory, monkeypatch):
    monkeypatch.setattr(type(backbone), "decode", lambda self, latents, inner=type(backbone).decode: (time.sleep(0.15), inner(self, latents))[1])
    forced = backbone.encode(trajectory.images)[:3]
    seconds, latents, reads = [], [], []
    for store in (Impatient(), SlowDisk(), SlowDisk(room=0)):
        out = rollout(backbone, make_policy("worldkv"), store, trajectory, 0, forced)
        seconds.append(sum(s.seconds_assemble for s in out.stats))
        latents.append(out.latents)
        reads.append(store.reads)
        assert all(s.bank_bytes_cpu == 0 for s in out.stats) == (store.room == 0 or isinstance(store, Impatient)), "pages read ahead are counted"
        store.close()
    assert all(torch.equal(x, latents[0]) for x in latents)
    assert reads[0] == reads[2] and reads[1] == reads[0] >= 10, "a page is read ahead or when it is needed, not twice"
    waited = 0.03 * reads[0]
    assert seconds[0] > waited and seconds[1] < seconds[0] - 0.5 * waited, "reading did not overlap with decoding"


def test_a_plan_is_made_once_a_chunk_and_its_time_counted_once(roll, backbone, trajectory):
    policy, calls = make_policy("worldkv"), []
    made = policy.plan
    policy.plan = lambda chunk, bank: (calls.append(chunk.index), time.sleep(0.02), made(chunk, bank))[2]  # type: ignore[method-assign]
    out = roll(policy)
    assert calls == [s.chunk for s in out.stats]
    assert all(s.seconds_plan >= 0.02 for s in out.stats) and min(s.seconds_plan for s in out.stats) < 0.04, "once, not twice"
    late = make_policy("worldkv")
    late.plans_ahead = False
    assert torch.equal(roll(late).latents, out.latents)


def test_long_rollouts_do_not_trace_every_past_frame(roll, monkeypatch):
    whole = roll(make_policy("sliding"))
    monkeypatch.setattr("harness.session.TRACED", 20)
    bare = roll(make_policy("sliding"))
    assert [s.unreachable_frames for s in bare.stats] == [len(s.unreachable) for s in whole.stats]
    assert all(s.stored is None is s.unreachable for s in bare.stats) and max(s.unreachable_frames for s in bare.stats) > 0


def test_150_chunks_hold_nothing_that_grows(backbone, tiered):
    """The short form of `+experiment=endurance`: bounded tiers, no file left open, memory and files as the policy says."""
    from harness.worlds.rounds import RoundsWorld

    trajectory = RoundsWorld(150, "full_loop", (16, 24), 80.0, 0.12, 15.0, 6, 3, 3).trajectory(0)
    forced = backbone.encode(trajectory.images)[:3]
    for name, grows in (("worldkv", True), ("sink_recent_rebased", False)):
        store = tiered()
        stats = rollout(backbone, make_policy(name), store, trajectory, 0, forced).stats
        budget = 18 * backbone.geometry.tokens
        assert max(s.attended_rows for s in stats) <= budget
        assert all(s.bank_bytes_gpu <= TINY["gpu"] and s.bank_bytes_cpu <= TINY["cpu"] for s in stats)
        assert (stats[-1].bank_bytes_disk > 1.8 * stats[75].bank_bytes_disk) == grows
        assert max(s.open_files for s in stats[20:]) <= min(s.open_files for s in stats[20:]) + 1  # a page that is being read
        files = len(list(store._disk._own.iterdir()))
        assert files == len(list(store._disk.frames())) and (files > 300) == grows
        late, early = (torch.tensor([s.seconds for s in part]).min() for part in (stats[-50:], stats[40:90]))
        assert late < 3 * early  # the fastest chunks: what a busy machine disturbs least
        assert stats[-1].host_bytes - stats[75].host_bytes < 20e6


def test_a_round_closes_and_is_walked_again(backbone):
    from harness.worlds.rounds import RoundsWorld

    path = RoundsWorld(40, "full_loop", (16, 24), 80.0, 0.12, 15.0, 6, 3, 3).trajectory(0)
    assert len(path.c2w) == 120 and all(torch.equal(path.c2w[p.first], path.c2w[p.revisit]) for p in path.pairs) and len(path.pairs) > 20
    with pytest.raises(ValueError, match="does not end where it began"):
        RoundsWorld(40, "R90", (16, 24), 80.0, 0.12, 15.0, 6, 3, 3).trajectory(0)


def test_a_page_goes_down_itself_where_what_it_would_push_out_fits_nowhere(tiered):
    whole, small = page(rows=6), page(rows=1)
    size = lambda p: sum(x.nbytes for x in (p.k, p.v, p.positions))  # noqa: E731
    store = tiered({"gpu": size(whole), "cpu": size(whole) // 2, "disk": 0})
    store.reset(torch.device("cpu"))
    store.put(0, whole)
    store.put(1, small)
    assert equal(store.get(0), whole) and equal(store.get(1), small)
    with pytest.raises(ValueError, match="no tier has room for .* of frame 2"):
        store.put(2, whole)
    assert set(store.frames()) == {0, 1}
