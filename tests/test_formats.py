"""Files of camera poses that people have: every format says the same path, and what is wrong in one is said with file and frame."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from harness.worlds.formats import find_cameras, read_cameras
from harness.worlds.formats.arrays import read_array
from harness.worlds.paths import read_path, reading_hint
from harness.worlds.poses import integrate, pinhole
from harness.worlds.recorded import RecordedWorld
from harness.worlds.scripted import parse
from tests.pose_files import GL, SIZE, WRITERS, intrinsics, write_colmap, write_nerfstudio, write_tum

SAME = 1e-5  # numbers written with nine digits


@pytest.fixture(scope="module")
def walk():
    """A walk that turns, and back: OpenCV, camera to world, y down."""
    return integrate(parse("WR_LS90", 15.0, 6, 3), 0.1).double().numpy()


@pytest.fixture
def folder(tmp_path):
    iio.imwrite(tmp_path / "first.png", np.full((48, 83, 3), 128, np.uint8))
    return tmp_path


def world(folder, **changes):
    settings = dict(size=(16, 24), protocol="free", lead_in=2, intrinsics_size=SIZE, fps=16.0, min_gap=6, overlap=0.5, chunk_px=3)
    return RecordedWorld(str(folder), **(settings | changes))


@pytest.mark.parametrize("write", WRITERS, ids=lambda w: w.__name__.removeprefix("write_"))
def test_every_format_is_the_same_path(folder, walk, write):
    write(folder, walk)
    found = read_path(folder)
    assert torch.allclose(found.c2w, torch.from_numpy(walk).float(), atol=SAME)
    t = world(folder).trajectory(0)
    assert torch.allclose(t.intrinsics[0], pinhole(80.0, SIZE, 1)[0] * torch.tensor([24 / 832, 16 / 480] * 2), rtol=1e-3)
    assert t.actions[3:9, 0].all() and t.actions[9, 4] == pytest.approx(15, abs=1e-3), "walked and turned right, also from a world with another up"
    assert t.pairs and t.prompt == ""


def test_the_first_picture_may_be_the_formats_own(tmp_path, walk):
    write_nerfstudio(tmp_path, walk)
    (tmp_path / "images").mkdir()
    iio.imwrite(tmp_path / "images" / "frame_0.png", np.full((48, 83, 3), 255, np.uint8))
    iio.imwrite(tmp_path / "images" / "frame_1.png", np.zeros((48, 83, 3), np.uint8))
    assert world(tmp_path).names == (tmp_path.name,)
    assert world(tmp_path).trajectory(0).images.min() == pytest.approx(1)


def test_a_sparse_model_is_no_second_trajectory(folder, walk):
    write_colmap(folder, walk)
    assert world(folder).names == (folder.name,)
    (folder / "sparse" / "0" / "images.txt").unlink()
    (folder / "sparse" / "0" / "images.bin").write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match="images.bin is COLMAP's binary form; write text: colmap model_converter"):
        world(folder)


def test_which_file_is_read(folder, walk):
    write_tum(folder, walk)
    (folder / "prompt.txt").write_text("A hall of 8 doors\n")
    (folder / "readme.txt").write_text("1 2 3 4 5 6 7 8\nbut then words\n")
    assert find_cameras(folder)[1].name == "CameraTrajectory.txt"
    (folder / "other.txt").write_text((folder / "CameraTrajectory.txt").read_text())
    with pytest.raises(ValueError, match="CameraTrajectory.txt, other.txt are all camera poses; keep one"):
        read_cameras(folder)
    (folder / "other.txt").rename(folder / "poses.txt")
    assert find_cameras(folder)[1].name == "poses.txt"
    np.save(folder / "poses.npy", walk)
    assert find_cameras(folder)[1].name == "poses.npy", "as ever"


@pytest.mark.parametrize(
    ("convention", "direction", "made"),
    [("opengl", None, lambda p: p @ GL), (None, "w2c", np.linalg.inv), ("opengl", "w2c", lambda p: np.linalg.inv(p @ GL)), ("opencv", "c2w", lambda p: p)],
)
def test_what_arrays_hold_can_be_said(folder, walk, convention, direction, made):
    np.save(folder / "poses.npy", made(walk))
    np.save(folder / "intrinsics.npy", intrinsics())
    t = world(folder, convention=convention, direction=direction).trajectory(0)
    assert torch.allclose(t.c2w[2:], torch.from_numpy(walk).float()[: len(t.c2w) - 2], atol=SAME)
    with pytest.raises(ValueError, match="world.convention=blender; use opencv or opengl"):
        world(folder, convention="blender")
    with pytest.raises(ValueError, match="world.direction=up; use c2w or w2c"):
        world(folder, direction="up")


def test_a_walk_tells_that_it_is_read_wrongly(walk):
    ahead = integrate(parse("WRWLWR90", 15.0, 8, 3), 0.1)
    assert reading_hint(ahead) == ""
    assert "world.convention=opengl" in reading_hint((ahead.double() @ torch.from_numpy(GL)).float())
    long = integrate(parse("WRWRWRWRWRW90", 15.0, 20, 3), 0.1)
    long[:, 0, 3] += 5
    assert "world.direction=w2c" in reading_hint(torch.linalg.inv(long))


def poses(change):
    def make(folder, walk):
        array = walk.copy()
        np.save(folder / "poses.npy", change(array))
        np.save(folder / "intrinsics.npy", intrinsics())

    return make


def put(array, at, value):
    array[at] = value
    return array


def text(name, content):
    return lambda folder, walk: (folder / name).write_text(content)


def camera(array):
    def make(folder, walk):
        np.save(folder / "poses.npy", walk)
        np.save(folder / "intrinsics.npy", np.array(array, dtype=float))

    return make


WRONG = {
    "transposed": (poses(lambda a: a.transpose(0, 2, 1)), r"poses.npy: the last row of frame 1 is .*transposed \(row vectors\): save poses"),
    "a last row of its own": (poses(lambda a: put(a, (4, 3, 3), 2.0)), "poses.npy: the last row of frame 4 is"),
    "NaN": (poses(lambda a: put(a, (7, 0, 3), np.nan)), "poses.npy: poses hold NaN or infinity at frame 7"),
    "scaled": (poses(lambda a: put(a, (3, slice(0, 3), slice(0, 3)), 2 * np.eye(3))), "poses.npy: frame 3 is no rigid camera pose"),
    "mirrored": (poses(lambda a: a @ np.diag([-1.0, 1, 1, 1])), "frame 0 is no rigid camera pose.*handedness"),
    "empty": (poses(lambda a: a[:0]), r"poses.npy is an empty array \(0, 4, 4\)"),
    "objects": (lambda f, w: np.save(f / "poses.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True), "poses.npy holds Python objects"),
    "text": (poses(lambda a: a.astype(str)), "poses.npy holds <U.*, expected numbers"),
    "archive called npy": (lambda f, w: (np.savez(f / "x.npz", a=w), (f / "x.npz").rename(f / "poses.npy")), "poses.npy is an archive .* call it poses.npz"),
    "no poses in an archive": (lambda f, w: np.savez(f / "poses.npz", a=np.ones(3)), "poses.npz holds a; call the .* poses one of poses, c2w"),
    "half an archive": (lambda f, w: (f / "poses.npz").write_bytes(b"PK\x03\x04 no archive"), "poses.npz is damaged"),
    "NaN intrinsics": (camera([[495, 495, np.nan, 240]]), "intrinsics.npy: intrinsics hold NaN or infinity at frame 0"),
    "zero focal length": (camera(np.tile([[0.0, 495, 416, 240]], (28, 1))), "intrinsics of frame 0 are .*must be above 0"),
    "of a larger picture": (camera([[1100.0, 1100, 960, 540]]), r"point of frame 0 \(960, 540\) lies outside a picture 832 wide.*perhaps \[1080,1920\]"),
    "shares of focal length alone": (camera([[0.6, 0.6, 416, 240]]), "frame 0 would have a field of view of 179.* degrees"),
    "short quaternions": (text("a.tum", "0 0 0 0 0 0 0 0\n1 0 0 0 0 0 0 1\n"), "a.tum: the quaternion of frame 0 has length 0, expected 1"),
    "times that do not rise": (text("a.tum", "0 0 0 0 0 0 0 1\n2 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n"), "a.tum: pose 2 is no later than the one before it"),
    "either direction": (lambda f, w: np.savez(f / "poses.npz", extrinsics=w), "poses.npz: extrinsics may be either; say world.direction=c2w or w2c"),
    "ragged": (text("a.txt", "1 2 3 4 5 6 7 8\n" * 2 + "1 2 3 4 5 6 7 8 9 10 11 12\n"), "a.txt: pose 2 has 12 numbers; TUM has 8, KITTI 12, RealEstate10K 19"),
    "no frames": (text("transforms.json", '{"frames": 3}'), "transforms.json is no transforms.json of nerfstudio or instant-ngp .*it needs frames"),
    "no JSON": (text("transforms.json", "{"), "transforms.json is no transforms.json"),
    "actions with NaN": (
        lambda f, w: (camera(intrinsics())(f, w), np.save(f / "actions.npy", put(np.zeros((len(w), 6)), (5, 4), np.nan))),
        "actions.npy: actions hold NaN or infinity at frame 5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_file_and_frame_before_anything_runs(folder, walk, case):
    write, message = WRONG[case]
    write(folder, walk)
    with pytest.raises(ValueError, match=message) as error:
        world(folder)
    assert str(folder) in str(error.value) and "allow_pickle" not in str(error.value)


def test_intrinsics_in_every_form(folder, walk):
    k = intrinsics()[0]
    matrix = np.array([[k[0], 0, k[2]], [0, k[1], k[3]], [0, 0, 1]])
    np.save(folder / "poses.npy", walk)
    forms = (k, k[None], np.tile(k, (len(walk), 1)), matrix, np.tile(matrix, (len(walk), 1, 1)), k / [832, 480, 832, 480])
    found = []
    for form in forms:
        np.save(folder / "intrinsics.npy", form)
        found.append(world(folder).trajectory(0).intrinsics)
    assert all(torch.allclose(f, found[0], rtol=1e-5) for f in found)
    (folder / "intrinsics.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no intrinsics\.npy, and poses.npy tells none; .*world.fov=DEGREES"):
        world(folder)
    assert world(folder, fov=80.0).trajectory(0).intrinsics[0, 0] == pytest.approx(12 / np.tan(np.radians(40)))


@pytest.mark.parametrize("dtype", [">f4", "<f8", np.float16, np.longdouble, ">i2"])
def test_arrays_of_any_byte_order_and_precision(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4).astype(dtype))
    found = read_array(tmp_path / "a.npy")
    assert found.dtype.isnative and found.dtype.itemsize <= 8
    assert torch.from_numpy(found).tolist() == np.arange(12).reshape(3, 4).tolist()


def test_what_was_read_is_told(folder, walk):
    write_tum(folder, walk)
    (folder / "prompt.txt").write_text("A hall.")
    (line,) = world(folder).about()
    for said in (
        "CameraTrajectory.txt (opencv, c2w): 28 poses",
        "reaches 0.6 m",
        "turns up to 90 degrees",
        "height",
        "30 poses a second",
        "revisit pairs",
        "prompt 'A hall.'",
    ):
        assert said in line, line
