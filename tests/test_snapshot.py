"""A session saved and opened again: the world goes on as if nothing had happened, or the reason why not is named."""

import json
import shutil
from dataclasses import dataclass, field

import pytest
import torch

from harness.cache.codecs import Int8
from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.stores import GpuStore, PinnedStore
from harness.cache.tiers import TieredStore
from harness.policy import PolicyWrapper
from harness.snapshot.plain_values import decode, encode
from policies.wrappers.coded import CodedPolicy
from tests.commands import ended
from tests.conftest import make_policy, make_world

ABOUT = {"policy": {"name": "worldkv", "retrieved": 9}}
COST = ("attended_rows", "window_bytes", "unreachable_frames", "retrieved", "attended", "unreachable", "stored", "taken")


RETRIEVAL = ["worldkv", "worldkv_rebased", "worldkv_release", "merge", "query", "coverage", "query_heads", "worldkv_cake", "lookahead"]
RETRIEVAL += ["pointvotes", "pointvotes_true"]
BOUNDED = [
    "int4_places_coverage",
    "places",
    "landmark",
    "ema",
    "capped",
    "h2o",
    "quest",
    "tempcache",
    "heads",
    "fast_ar",
    "pooled",
    "lacache",
    "decoprune",
    "field",
    "razor",
    "expected",
]


@pytest.mark.parametrize("name", [*RETRIEVAL, *BOUNDED, CodedPolicy(make_policy("worldkv"), Int8())], ids=lambda p: p if isinstance(p, str) else "coded")
def test_half_saved_and_half_loaded_equal_the_whole(name, go, tmp_path):
    whole = go(name)
    go(name, save=tmp_path, chunks=6, about=ABOUT)
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    again = go(name, load=tmp_path, about=ABOUT)
    assert torch.equal(again.latents, whole.latents) and torch.equal(again.frames, whole.frames) and again.noise == whole.noise
    assert torch.equal(again.generated, whole.generated)
    assert [[getattr(s, c) for c in COST] for s in again.stats] == [[getattr(s, c) for c in COST] for s in whole.stats]


def test_tiers_and_codecs_are_saved_as_they_are(go, tmp_path):
    """A page keeps its coded form, and may go on in another tier than it was saved from."""
    whole = go("worldkv", GpuStore(Int8()))
    small = TieredStore(Int8(), {"gpu": 3000, "cpu": 4000}, str(tmp_path / "bank"))
    go("worldkv", small, save=tmp_path / "m", chunks=6)
    small.close()
    for store in (small, PinnedStore(Int8()), DiskStore(Int8(), str(tmp_path / "bank"))):
        assert torch.equal(go("worldkv", store, load=tmp_path / "m").latents, whole.latents)
        store.close()


def test_saving_twice_replaces_and_a_session_may_go_on_in_steps(go, tmp_path):
    whole = go("worldkv")
    go("worldkv", save=tmp_path, chunks=2)
    for stop in (3, 8):
        go("worldkv", load=tmp_path, save=tmp_path, chunks=stop)
    assert torch.equal(go("worldkv", load=tmp_path).latents, whole.latents)
    assert len(list(tmp_path.iterdir())) == 1, "old or half memories are left behind"


def test_a_session_goes_on_along_another_path_that_begins_alike(go, backbone, tmp_path):
    """The second process walks on where the first one's path ended."""
    short = make_world(["R90L90"], degrees=10.0).trajectory(0)
    long = type(short)(**{**vars(short), "name": "longer", "c2w": torch.cat([short.c2w, short.c2w.flip(0)]),
                          "intrinsics": short.intrinsics.repeat(2, 1), "actions": torch.cat([short.actions, -short.actions.flip(0)]),
                          "reference": None, "overlap": None, "pairs": ()})  # fmt: skip
    first = go("worldkv", path=short, save=tmp_path)
    on = go("worldkv", path=long, load=tmp_path / short.name)
    made = len(first.latents)
    assert torch.equal(on.latents[:made], first.latents) and len(on.latents) > 1.5 * made
    assert set(on.stats[-1].retrieved) & set(range(made)), "nothing of the saved session is retrieved"


@dataclass
class Counting(PolicyWrapper):
    """A policy of somebody else's, with a state of every kind."""

    inner: object
    odd: object = None
    _counts: dict = field(default_factory=dict, init=False)

    def reset(self, geometry):
        super().reset(geometry)
        self._counts, self._pages = {}, []
        self._rng = torch.Generator().manual_seed(3)

    def commit(self, chunk, kv, bank):
        self._counts[chunk.index] = (float(torch.rand(1, generator=self._rng)), {chunk.start}, kv.v.mean((1, 2)), range(chunk.start), None)
        self._pages.append(Page(kv.k[:, :, :1].clone(), kv.v[:, :, :1].clone(), kv.positions[:1].expand(3, -1, -1)))
        super().commit(chunk, kv, bank)


def test_state_of_wrapped_policies_comes_back(go, tmp_path):
    whole, first, second = (Counting(make_policy("worldkv")) for _ in range(3))
    go(whole)
    go(first, save=tmp_path, chunks=5)
    go(second, load=tmp_path)
    assert list(second._counts) == list(whole._counts)
    for a, b in zip(second._counts.values(), whole._counts.values(), strict=True):
        assert [a[0], a[1], a[3], a[4]] == [b[0], b[1], b[3], b[4]] and torch.equal(a[2], b[2])
    assert all(torch.equal(a.k, b.k) and torch.equal(a.positions, b.positions) for a, b in zip(second._pages, whole._pages, strict=True))


def test_plain_values_survive_json():
    tensors = {}
    value = {1: [None, True, 2, float("inf"), "x"], (2, "k"): (frozenset({3}), torch.arange(3)), "e": torch.empty(0, 4, dtype=torch.bfloat16)}
    again = decode(json.loads(json.dumps(encode(value, tensors, "v"))), tensors, torch.device("cpu"))
    assert again[1] == value[1] and again[(2, "k")][0] == {3} and torch.equal(again[(2, "k")][1], torch.arange(3))
    assert again["e"].shape == (0, 4) and again["e"].dtype == torch.bfloat16


OPEN = """
import torch
torch.set_num_threads(1)
from pathlib import Path
from harness.rollout import Snapshot
from harness.rollout import rollout
from harness.cache.stores import PinnedStore
from policies.wrappers.coded import CodedPolicy
from tests.conftest import TinyRoomsBackbone, make_policy, make_world
backbone, path = TinyRoomsBackbone(), make_world(["R90L90R60L60"], hold_frames=3, degrees=10.0).trajectory(0)
out = rollout(backbone, make_policy("worldkv"), PinnedStore(), path, 0, backbone.encode(path.images)[:3], snapshot=Snapshot(load=Path("m")))
torch.save(out.latents, "latents.pt")
"""


def test_another_process_goes_on_bit_for_bit(go, tmp_path):
    go("worldkv", save=tmp_path / "m", chunks=6)
    script = tmp_path / "open.py"
    script.write_text(OPEN)
    status, said = ended(str(script), cwd=tmp_path)
    assert status == 0, said
    assert torch.equal(torch.load(tmp_path / "latents.pt", weights_only=True), go("worldkv").latents)
