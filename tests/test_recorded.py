"""Recorded camera paths: read right, and refused with the remedy."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from harness.worlds.poses import integrate, pinhole
from harness.worlds.recorded import RecordedWorld
from harness.worlds.scripted import parse


@pytest.fixture
def folder(tmp_path):
    c2w = integrate(parse("R_L90", 15.0), 0.1)
    np.save(tmp_path / "poses.npy", c2w.numpy())
    np.save(tmp_path / "intrinsics.npy", pinhole(80.0, (480, 832), len(c2w)).numpy())
    iio.imwrite(tmp_path / "start.png", np.full((480, 832, 3), 128, dtype=np.uint8))
    return tmp_path


def world(folder, **changes):
    settings = dict(size=(16, 24), protocol="free", lead_in=2, intrinsics_size=(480, 832), fps=16.0, min_gap=6, overlap=0.5, chunk_px=3)
    return RecordedWorld(str(folder), **(settings | changes))


def test_a_path_rolls_out(folder, roll):
    from tests.conftest import make_policy

    t = world(folder).trajectory(0)
    assert len(t.c2w) == 18, "16 poses and a lead-in of 2, in whole chunks"
    assert torch.equal(t.c2w[0], t.c2w[2])
    assert torch.allclose(t.intrinsics[0, 0] / 24, torch.tensor(0.5) / np.tan(np.radians(40)), atol=1e-4)
    assert t.images.shape == (3, 3, 16, 24)
    assert t.pairs
    out = roll(make_policy("worldkv"), path=t)
    assert len(out.frames) == 18
    with pytest.raises(ValueError, match="only worlds with geometry"):
        roll(make_policy("oracle"), path=t)
    with pytest.raises(ValueError, match=r"starts from a whole chunk of 3; hold the first one: world.lead_in=2"):
        roll(make_policy("worldkv"), path=world(folder, lead_in=0).trajectory(0))


def test_true_frames_make_a_reference(folder):
    np.save(folder / "frames.npy", np.random.default_rng(0).integers(0, 255, (16, 32, 48, 3), dtype=np.uint8))
    t = world(folder, protocol="guided").trajectory(0)
    assert t.reference.shape == (18, 3, 16, 24)
    assert t.given == 12, "the lead-in, six turns and the hold"


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("poses", np.zeros((5, 3, 3)), r"expected \(F, 4, 4\)"),
        ("poses", np.full((5, 4, 4), np.nan), "NaN or infinity at frame 0"),
        ("poses", np.tile(2 * np.eye(4), (5, 1, 1)), "no rigid"),
        ("intrinsics", np.ones((3, 4)), "expected"),
        ("actions", np.ones((3, 6)), "expected"),
        ("frames", np.ones((3, 6)), "expected uint8"),
    ],
)
def test_bad_files_are_named(folder, name, array, message):
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(ValueError, match=message):
        world(folder).trajectory(0)


def test_missing_files_are_named(folder, tmp_path_factory):
    (folder / "start.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"first\.png"):
        world(folder).trajectory(0)
    (folder / "intrinsics.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"intrinsics\.npy"):
        world(folder).trajectory(0)
    (folder / "poses.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="damaged"):
        world(folder).trajectory(0)
    with pytest.raises(FileNotFoundError, match=r"no poses\.npy"):
        world(tmp_path_factory.mktemp("empty"))
