"""What goes wrong with snapshots: others' settings, damage, a full disk, kills, and states that cannot be saved."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save

from backbones.rooms import TinyRoomsBackbone
from harness.cache.page_files import write_page
from harness.cache.stores import GpuStore
from harness.rollout import Snapshot, rollout
from harness.system.files import remove_stale
from tests.conftest import make_policy, make_world
from tests.test_snapshot import ABOUT, Counting


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


def test_a_state_that_is_no_plain_value_is_refused_by_name(go, tmp_path):
    policy = Counting(make_policy("worldkv"))
    policy._file = open(os.devnull)  # noqa: SIM115
    with policy._file, pytest.raises(ValueError, match=r"cannot hold policy.*, a _io.TextIOWrapper"):
        go(policy, save=tmp_path, chunks=2)
    policy = Counting(make_policy("worldkv"), odd=[make_policy("full")])
    with pytest.raises(ValueError, match=r"cannot hold policy.odd, several parts in one field"):
        go(policy, save=tmp_path, chunks=2)
    assert not list(tmp_path.iterdir()), "half a snapshot is left behind"


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
