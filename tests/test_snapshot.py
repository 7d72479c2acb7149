"""A session saved and opened again: the world goes on as if nothing had happened, or the reason why not is named."""

import errno
import json
import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from backbones.rooms import TinyRoomsBackbone
from harness.cache.codecs import Int8
from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.page_files import write_page
from harness.cache.stores import GpuStore, PinnedStore
from harness.cache.tiers import TieredStore
from harness.policy import PolicyWrapper
from harness.rollout import Snapshot, rollout
from harness.snapshot.plain_values import decode, encode
from harness.system.files import remove_stale
from policies.wrappers.coded import CodedPolicy
from tests.commands import ended
from tests.conftest import make_policy, make_world

ABOUT = {"policy": {"name": "worldkv", "retrieved": 9}}
COST = ("attended_rows", "window_bytes", "unreachable_frames", "retrieved", "attended", "unreachable", "stored", "taken")


@pytest.fixture
def go(backbone, trajectory):
    def run(name, store=None, path=trajectory, **snapshot):
        policy = make_policy(name) if isinstance(name, str) else name
        return rollout(backbone, policy, store or GpuStore(), path, 0, backbone.encode(path.images)[:3], snapshot=Snapshot(**snapshot))

    return run


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": {"policy": {"name": "worldkv", "retrieved": 6}}}, r"other settings: policy.retrieved is 9 there and 6 here"),
        ({"about": ABOUT | {"codec": "int8"}}, r"codec is absent there and int8 here"),
        ({"chunks": 4}, r"holds 4 chunks, this rollout ends after 4"),
        ({"load": "elsewhere"}, r"snapshot.load=.*elsewhere has no snapshot of test0000.*no snapshot was saved there"),
    ],
)
def test_what_does_not_fit_is_refused(change, message, go, tmp_path):
    go("worldkv", save=tmp_path / "m", chunks=4, about=ABOUT)
    given = {"load": tmp_path / "m", "about": ABOUT} | change
    with pytest.raises(ValueError, match=message):
        go("worldkv", **(given | {"load": Path(given["load"])}))


def test_another_path_and_another_network_are_refused(go, backbone, trajectory, tmp_path):
    go("worldkv", save=tmp_path, chunks=4)
    other = make_world(["L90R90L60R60"], degrees=10.0).trajectory(0)
    with pytest.raises(ValueError, match=r"snapshot of test0000_L90.*it has test0000_R90L90R60L60"):
        go("worldkv", path=other, load=tmp_path)
    with pytest.raises(ValueError, match=r"made along another path than test0000_L90.*: c2w differ at video frame \d+ of the first 12"):
        go("worldkv", path=other, load=tmp_path / trajectory.name)
    half = TinyRoomsBackbone(dtype="bfloat16")
    with pytest.raises(ValueError, match="geometry.dtype is torch.float32 there and torch.bfloat16 here"):
        rollout(half, make_policy("worldkv"), GpuStore(), trajectory, 0, snapshot=Snapshot(load=tmp_path))


def test_damage_is_named(go, trajectory, tmp_path):
    go("worldkv", save=tmp_path, chunks=5)
    folder = tmp_path / trajectory.name
    page = sorted((folder / "pages").iterdir())[0]
    page.write_bytes(page.read_bytes()[:-1])
    with pytest.raises(OSError, match=f"{page.name} is damaged or gone .*save that snapshot again"):
        go("worldkv", load=tmp_path)
    (folder / "tensors.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged or of another version .*save that snapshot again"):
        go("worldkv", load=tmp_path)
    (folder / "tensors.safetensors").write_bytes(save({}))
    (folder / "session.json").write_text('{"schema": 99}')
    with pytest.raises(ValueError, match="schema 99, this version reads 2 and 3"):
        go("worldkv", load=tmp_path)


class Streaming(TinyRoomsBackbone):
    """A backbone with a state of its own: as the abstract class has it, it cannot be saved."""

    def state(self):
        return super(TinyRoomsBackbone.__mro__[1], self).state()


def test_a_backbone_that_keeps_state_is_refused_before_the_first_chunk(trajectory, tmp_path):
    seen = []
    with pytest.raises(ValueError, match="Streaming keeps state between chunks that it cannot hand over"):
        rollout(Streaming(), make_policy("worldkv"), GpuStore(), trajectory, 0, observe=seen.append, snapshot=Snapshot(save=tmp_path))
    assert not seen and not list(tmp_path.iterdir())


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


def test_a_state_that_is_no_plain_value_is_refused_by_name(go, tmp_path):
    policy = Counting(make_policy("worldkv"))
    policy._file = open(os.devnull)  # noqa: SIM115
    with policy._file, pytest.raises(ValueError, match=r"cannot hold policy.*, a _io.TextIOWrapper"):
        go(policy, save=tmp_path, chunks=2)
    policy = Counting(make_policy("worldkv"), odd=[make_policy("full")])
    with pytest.raises(ValueError, match=r"cannot hold policy.odd, several parts in one field"):
        go(policy, save=tmp_path, chunks=2)
    assert not list(tmp_path.iterdir()), "half a snapshot is left behind"


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


def test_a_full_disk_leaves_the_old_memory(go, tmp_path, monkeypatch):
    go("worldkv", save=tmp_path, chunks=5)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full(path, *args, inner=write_page, **kwargs):
        if path.name > "0000006":
            raise OSError(errno.ENOSPC, f"could not write {path}")
        return inner(path, *args, **kwargs)

    monkeypatch.setattr("harness.snapshot.snapshot.write_page", full)
    with pytest.raises(OSError, match="could not write"):
        go("worldkv", load=tmp_path, save=tmp_path, chunks=8)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_snapshot_of_other_images_is_refused(go, trajectory, tmp_path):
    """One camera path, two places: what was seen of the one is no memory of the other."""
    go("worldkv", save=tmp_path, chunks=5)
    other = replace(trajectory, name="other", images=1 - trajectory.images)
    with pytest.raises(ValueError, match="was made of other images than other"):
        go("worldkv", path=other, load=tmp_path / trajectory.name)


def test_what_cannot_be_saved_says_so_before_the_end(backbone, trajectory, tmp_path):
    seen = []
    with pytest.raises(ValueError, match="cannot be saved|latents"):
        rollout(backbone, make_policy("reencode"), GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:3], seen.append, Snapshot(save=tmp_path))
    assert len(seen) < 11


def test_a_save_that_was_killed_leaves_nothing_for_ever(go, trajectory, tmp_path):
    """An hour later: what is younger may be another process's."""
    left, young, others = (tmp_path / name for name in (f".{trajectory.name}.00ff.partial", f".{trajectory.name}.00fe.partial", ".x.00ff.partial"))
    for folder in (left, young, others):
        (folder / "pages").mkdir(parents=True)
    for folder in (left, others):
        os.utime(folder, (1e9, 1e9))
    go("worldkv", save=tmp_path, chunks=5)
    assert not left.exists() and young.exists() and others.exists()
    remove_stale(tmp_path)
    assert not others.exists() and young.exists()
