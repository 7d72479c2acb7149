"""Pages on disk: the same bits, a disk that is full, files that are damaged, and a folder that goes."""

import errno
import os
from pathlib import Path

import pytest
import torch

from harness.cache.codecs import Exact, Int4, Int8
from harness.cache.disk import DiskStore
from harness.cache.page import Page
from harness.cache.page_files import DamagedPage, read_page, write_page
from tests.conftest import make_policy
from tests.test_tiers import equal, page


@pytest.mark.parametrize("codec", [Exact(), Int8(), Int4()], ids=["exact", "int8", "int4"])
@pytest.mark.parametrize("heads", [False, True], ids=["rows", "rows of heads"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_holds_a_page_bit_for_bit(codec, heads, dtype, tmp_path):
    made = page(heads=heads)
    packed = codec.pack(Page(made.k.to(dtype), made.v.to(dtype), made.positions[:, :1].expand(made.positions.shape), made.mass))
    again = read_page(tmp_path / "p.safetensors", "", write_page(tmp_path / "p.safetensors", packed, ""))
    assert again.nbytes == packed.nbytes and again.dtype == dtype
    assert equal(codec.unpack(again), codec.unpack(packed))


def test_damaged_and_missing_pages_are_named(disk):
    disk.reset(torch.device("cpu"))
    for frame in range(4):
        disk.put(frame, page())
    file = disk._path(0)
    file.write_bytes(file.read_bytes()[:-7])
    disk._path(1).write_bytes(b"")
    disk._path(2).unlink()
    disk.ahead([2])
    for frame in range(3):
        with pytest.raises(DamagedPage, match=f"{frame:07d}.safetensors is damaged or gone .*run the same command again"):
            disk.get(frame)
    assert equal(disk.get(3), page())
    with pytest.raises(KeyError):
        disk.get(9)


def test_a_full_disk_is_a_clear_error_and_loses_nothing(roll, disk, monkeypatch):
    count = [0]

    def full(self, mode="r", *args, opened=Path.open, **kwargs):
        file = opened(self, mode, *args, **kwargs)
        if mode == "wb" and self.name.startswith("."):
            count[0] += 1
            if count[0] > 5:
                file.write(b"half")
                file.close()
                raise OSError(errno.ENOSPC, "No space left on device")
        return file

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match=r"could not write .*bank.* bytes\): No space left on device; finished trajectories are kept: free some space, or give"):
        roll(make_policy("worldkv"), disk)
    left = sorted(p.name for p in disk._own.iterdir())
    assert left == [f"{f:07d}.safetensors" for f in sorted(disk.frames())] and len(left) == 5, "half a file stays"
    monkeypatch.undo()
    assert all(disk.get(f).rows for f in disk.frames())


def test_the_folder_goes_unless_it_is_kept(tmp_path, roll):
    (tmp_path / f"bank-{os.uname().nodename}-4194304-dead").mkdir()  # above any process id
    for keep in (False, True):
        store = DiskStore(None, str(tmp_path), keep)
        roll(make_policy("worldkv"), store)
        (own,) = tmp_path.iterdir()
        assert str(os.getpid()) in own.name and len(list(own.iterdir())) == len(list(store.frames()))
        roll(make_policy("sliding"), store)  # a new rollout starts with an empty bank
        store.close()
        assert bool(list(tmp_path.iterdir())) == keep
