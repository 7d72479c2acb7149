"""Tiers on a GPU: copies on a side stream change no bit and stay within limits. Skipped without CUDA."""

import pytest
import torch

from backbones.rooms import TinyRoomsBackbone
from harness.cache.codecs import Int8
from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.stores import GpuStore, PinnedStore
from harness.cache.tiers import TieredStore
from harness.rollout import Snapshot, rollout
from tests.conftest import make_policy

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
FRAME = 9216


@pytest.mark.parametrize("name", ["worldkv", "worldkv_rebased", "merge", "sink_recent_rebased"])
@pytest.mark.parametrize("codec", [None, Int8()], ids=["exact", "int8"])
def test_every_tier_gives_the_same_bits(name, codec, trajectory, tmp_path):
    backbone = TinyRoomsBackbone(device="cuda")
    forced = backbone.encode(trajectory.images)[:3]
    limits = {"gpu": 8 * FRAME, "cpu": 8 * FRAME, "disk": None}
    stores = GpuStore(codec), PinnedStore(codec), DiskStore(codec, str(tmp_path)), TieredStore(codec, limits, str(tmp_path))
    outs = [rollout(backbone, make_policy(name), store, trajectory, 0, forced) for store in stores]
    assert all(torch.equal(out.latents, outs[0].latents) for out in outs)
    assert all(s.bank_bytes_gpu <= limits["gpu"] and s.bank_bytes_cpu <= limits["cpu"] for s in outs[3].stats)
    for store in stores:
        store.close()


def test_pinned_pages_come_ahead_on_a_side_stream(backbone):
    store = PinnedStore(room=2e6)
    store.reset(torch.device("cuda"))
    pages = {f: Page(*torch.randn(2, 3, 1, 600, 2, 32, device="cuda"), torch.zeros(3, 600, 3, device="cuda")) for f in range(4)}
    for f, page in pages.items():
        store.put(f, page)
    store.ahead([3, 1, 0, 2])
    ready = store.bytes_in("gpu")
    assert 0 < ready <= 2e6 and all(p.is_pinned() for f in pages for p in store.held(f).k)
    for f, page in pages.items():
        assert torch.equal(store.get(f).k, page.k) and torch.equal(store.get(f).v, page.v)
    assert store.bytes_in("gpu") == 0
    store.ahead([0])
    store.drop(0)
    assert store.bytes_in("gpu") == 0, "a page that was replaced must not come back"


def test_a_memory_goes_on(trajectory, tmp_path):
    backbone = TinyRoomsBackbone(device="cuda")
    forced = backbone.encode(trajectory.images)[:3]

    def go(snapshot=None, store=None):
        return rollout(backbone, make_policy("query"), store or PinnedStore(), trajectory, 0, forced, snapshot=snapshot or Snapshot())

    whole = go()
    go(Snapshot(save=tmp_path, chunks=6))
    assert torch.equal(go(Snapshot(load=tmp_path), GpuStore()).latents, whole.latents)
