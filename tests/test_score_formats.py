"""How videos of other systems lie in folders: plain ones and the layouts of three benchmarks; what does not fit is a line."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from harness.worlds.layouts import layout_of
from harness.worlds.layouts.mind import _track as mind_track
from harness.worlds.poses import pinhole
from harness.worlds.scripted import parse
from harness.worlds.videos import VideosWorld, cut_at_start
from tests.scored_videos import SIZE, film, out_and_back


@pytest.fixture(scope="module")
def views():
    return out_and_back()


def make(folder, **changes):
    defaults = dict(layout="auto", truth=None, size=None, fov=80.0, fps=16.0, path_fps=None, offset=0, step=0.1, intrinsics_size=None, min_gap=6, overlap=0.5)
    return VideosWorld(str(folder), **(defaults | dict(metres_tolerance=0.05, degrees_tolerance=2.0) | changes))


def test_what_does_not_fit_is_a_line(tmp_path, views):
    c2w, frames = views
    folder = tmp_path / "in"

    def line(name, **changes):
        world = make(folder, **changes)
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            world.scored(world.names.index(name))
        assert str(error.value).count("\n") == 0
        return str(error.value)

    film(folder / "alone.mp4", frames)
    film(folder / "other.mp4", frames)
    assert "no poses and no actions of this video; expected NAME_poses.npy" in line("alone")
    np.save(folder / "alone_poses.npy", c2w[:-3].numpy())
    assert f"the video has {len(frames)} frames at 16 a second from pose 0 on, its path alone_poses.npy has {len(frames) - 3}" in line("alone")
    np.save(folder / "alone_poses.npy", c2w.numpy())
    film(folder / "alone_true.mp4", frames)
    film(folder / "alone.mp4", frames[3:])
    assert "its first frame is the true film's frame 3: its start was cut off, use world.offset=3" in line("alone")
    assert torch.equal(make(folder, offset=3).scored(0).task.c2w, c2w[3:])
    film(folder / "alone.mp4", frames[:-3])
    assert len(make(folder).scored(0).frames) == len(frames) - 3, "cut at the end"
    film(folder / "alone_true.mp4", np.zeros((len(frames), 48, 48, 3), np.uint8))
    assert "the true film alone_true.mp4 is 48 x 48 pixels (rows x columns), the video 32 x 48: crop one" in line("alone")
    film(folder / "alone_true.mp4", frames.repeat(2, 1).repeat(2, 2))
    assert make(folder).scored(0).task.reference.shape[-2:] == SIZE, "another size of one shape is scaled"
    film(folder / "alone_true.mp4", frames[:9])
    assert "the true film has 9 frames, and the video shows the path up to pose" in line("alone")
    (folder / "alone.mp4").write_bytes(b"no film")
    assert "alone.mp4 is damaged or no video" in line("alone")
    (folder / "alone.mp4").unlink()
    for wrong, message in (
        (dict(layout="x"), "use auto, mind"),
        (dict(offset=-1), "offset of 0 or more"),
        (dict(fov=0), "world.fov=0"),
        (dict(truth="nowhere"), "no folder"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            make(folder, **wrong)
    with pytest.raises(FileNotFoundError, match="holds no video"):
        make(tmp_path / "in" / ".." / "in" if not (folder / "other.mp4").unlink() else folder)
    with pytest.raises(FileNotFoundError, match="world.folder=.* is no folder"):
        make(tmp_path / "nowhere")


def test_another_frame_rate(tmp_path, views):
    c2w, frames = views
    rows = [[i / 32, *p[:3, 3].tolist(), 0, 0, 0, 1] for i, p in enumerate(torch.eye(4).repeat(2 * len(frames), 1, 1))]
    (tmp_path / "a.txt").write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))
    film(tmp_path / "a.mp4", frames, fps=16)
    with pytest.raises(ValueError, match="both take .* s; world.path_fps=32 brings them together"):
        make(tmp_path).scored(0)
    assert len(make(tmp_path, path_fps=32.0).scored(0).task.c2w) == len(frames)


def test_folders_of_frames_actions_and_arrays(tmp_path, views):
    c2w, frames = views
    actions = parse("R_L90", 15.0, 6, 3)
    (tmp_path / "pictures" / "frames").mkdir(parents=True)
    for i, frame in enumerate(frames):
        iio.imwrite(tmp_path / "pictures" / "frames" / f"{i}.png", frame)
    np.save(tmp_path / "pictures" / "actions.npy", actions.numpy())
    (tmp_path / "array").mkdir()
    np.save(tmp_path / "array" / "frames.npy", frames)
    np.savez(tmp_path / "array" / "poses.npz", c2w=c2w.numpy(), K=np.array([[28.6, 0, 24], [0, 28.6, 16], [0, 0, 1]]))
    world = make(tmp_path)
    assert world.layout == "plain" and world.names == ("array", "pictures")
    array, pictures = (world.scored(i) for i in (0, 1))
    assert torch.equal(array.frames, pictures.frames), "frame 10 comes after frame 9"
    assert [(p.first, p.revisit) for p in array.task.pairs] == [(p.first, p.revisit) for p in pictures.task.pairs]
    assert not array.generated[0] and array.generated[1:].all()
    assert world.trajectory(0).images.shape[0] == 1, "what another model may start from"


def unreal(c2w):
    """Rows of action.json: Unreal's centimetres and degrees."""
    yaw = torch.rad2deg(torch.atan2(c2w[:, 0, 2], c2w[:, 2, 2])).tolist()
    pitch = torch.rad2deg(torch.atan2(-c2w[:, 1, 2], torch.hypot(c2w[:, 0, 2], c2w[:, 2, 2]))).tolist()
    at = (100 * c2w[:, :3, 3]).tolist()
    return [
        {"time": i, "ws": 0, "actor_pos": {"x": z, "y": x, "z": -y}, "actor_rpy": {"x": 0.0, "y": p, "z": a}}
        for i, ((x, y, z), p, a) in enumerate(zip(at, pitch, yaw, strict=True))
    ]


def test_a_models_files_of_poses_are_among_what_scores_depend_on(tmp_path, views):
    """COLMAP's lie two folders below the video."""
    c2w, frames = views
    film(tmp_path / "hall" / "clip.mp4", frames)
    model = tmp_path / "hall" / "sparse" / "0"
    model.mkdir(parents=True)
    for name in ("images.txt", "cameras.txt"):
        (model / name).write_text("")
    assert {model / "images.txt", model / "cameras.txt", tmp_path / "hall" / "clip.mp4"} <= set(make(tmp_path).files(0))


def test_mind(tmp_path, views):
    """Its README's tree: a system's own part after mark_time, a whole video, one that is missing, the mirror test."""
    c2w, frames = views
    for test, name in (("mem_test", "data-26"), ("mem_test", "data-27"), ("action_space_test", "data-1")):
        gt = tmp_path / "MIND-Data" / "1st_data" / "test" / test / name
        film(gt / "video.mp4", frames)
        (gt / "action.json").write_text(json.dumps({"mark_time": 6, "total_time": len(frames), "caption": "", "data": unreal(c2w)}))
    root = tmp_path / "mine"
    film(root / "1st_data" / "mem_test" / "data-26" / "video.mp4", frames[6:])
    film(root / "1st_data" / "action_space_test" / "data-1" / "video.mp4", frames)
    mirror = np.concatenate([frames[:8], frames[:8][::-1]])
    film(root / "1st_data" / "mirror_test" / "any" / "path-1.mp4", mirror)
    assert layout_of(root) == "mind"
    with pytest.raises(ValueError, match="give its folder: world.truth=MIND-Data"):
        make(root)
    world = make(root, truth=str(tmp_path / "MIND-Data"))
    assert world.names == ("1st_data/mirror_test/any/path-1", "1st_data/mem_test/data-26", "1st_data/mem_test/data-27", "1st_data/action_space_test/data-1")
    assert "1 of 4 videos are missing: 1st_data/mem_test/data-27" in world.about()[1]
    own, whole = world.scored(1), world.scored(3)
    assert len(own.frames) == len(frames) and not own.generated[:6].any() and own.generated[6:].all()
    assert torch.allclose(own.task.c2w, c2w, atol=1e-4) and torch.equal(own.task.c2w, whole.task.c2w)
    assert {p.revisit for p in own.task.pairs} == {p.revisit for p in whole.task.pairs} and own.task.reference is not None
    assert (own.shown, whole.shown) == (len(frames) - 6, len(frames)), "seconds of a file are those of its own frames"
    mirrored = world.scored(0)
    assert {(p.first, p.revisit) for p in mirrored.task.pairs} == {(7 - i, 8 + i) for i in range(3, 8)}, "6 frames later at least"
    assert (mirrored.frames[7] - mirrored.frames[8]).abs().mean() < 0.05
    tilted = tmp_path / "action.json"
    row = {"camera_pos": {"x": 100.0, "y": 200.0, "z": 300.0}, "camera_rpy": {"x": 90.0, "y": 0.0, "z": 0.0}}
    tilted.write_text(json.dumps({"mark_time": 0, "data": [row]}))
    pose = mind_track(tilted, SIZE).c2w[0]
    assert torch.allclose(pose[:3, 3], torch.tensor([2.0, -3.0, 1.0])) and torch.allclose(pose[:3, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    broken = tmp_path / "MIND-Data" / "1st_data" / "test" / "mem_test" / "data-26" / "action.json"
    assert broken in world.files(1) and len(set(world.files(1))) == len(world.files(1))
    broken.write_text("{}")
    other = make(root, truth=str(tmp_path / "MIND-Data"))
    assert len(other.scored(3).frames) == len(frames), "one damaged file is that video's alone"
    with pytest.raises(ValueError, match="data-26/action.json is no action.json of MIND"):
        other.scored(1)
    tilted.write_text("{}")
    with pytest.raises(ValueError, match="is no action.json of MIND"):
        mind_track(tilted, SIZE)


def test_memobench(tmp_path, views):
    """Its README's trees: frames of a model, of another length than the truth; poses by clip number; MapAnything's of real clips."""
    c2w, frames = views
    data = tmp_path / "data"
    clip = data / "Synthetic_processed" / "Barnyard" / "Barnyard_005"
    (clip / "5").mkdir(parents=True)
    (clip / "RGB5").mkdir()
    np.save(clip / "5" / "poses.npy", c2w.numpy())
    np.save(clip / "5" / "intrinsics.npy", pinhole(80.0, (480, 832), len(c2w)).numpy())
    (data / "Real_Raw" / "012" / "raw").mkdir(parents=True)
    np.savez(
        data / "Real_Raw" / "012" / "raw" / "012_mapanything.npz",
        cam_c2w=c2w.numpy(),
        intrinsic=np.tile(np.array([[496, 0, 416], [0, 496, 240], [0, 0, 1.0]]), (len(c2w), 1, 1)),
    )
    film(data / "Real_Raw" / "012" / "012.mp4", frames)
    root = tmp_path / "output" / "mine"
    spread = np.linspace(0, len(frames) - 1, 2 * len(frames) - 1).round().astype(int)
    for where, start in (("Synthetic/Barnyard/Barnyard_005", 0), ("Real/012", 1)):
        (root / where / "frames").mkdir(parents=True)
        for i, frame in enumerate(spread):
            iio.imwrite(root / where / "frames" / f"{i + start:05d}.png", frames[frame])
    for i, frame in enumerate(frames):
        iio.imwrite(clip / "RGB5" / f"frame_{i:04d}.jpg", frame)
    (data / "Synthetic_processed" / "Barnyard" / "Barnyard_006" / "6").mkdir(parents=True)
    assert layout_of(root) == "memobench"
    with pytest.raises(ValueError, match=r"benchmark's data folder \(Synthetic_processed, Real_Raw\): world.truth=DIR"):
        make(root)
    world = make(root, truth=str(data))
    assert {clip / "5" / "poses.npy", clip / "5" / "intrinsics.npy"} <= set(world.files(0))
    assert data / "Real_Raw" / "012" / "raw" / "012_mapanything.npz" in world.files(2)
    assert world.names == ("Synthetic/Barnyard/Barnyard_005", "Synthetic/Barnyard/Barnyard_006", "Real/012")
    for index in (0, 2):
        made = world.scored(index)
        assert torch.equal(made.task.c2w, c2w[torch.from_numpy(spread)]) and len(made.task.reference) == len(spread)
        assert made.task.pairs and made.task.intrinsics[0, 0] == pytest.approx(SIZE[1] / 2 / np.tan(np.radians(40)), rel=0.01)
        assert (made.frames - made.task.reference).abs().mean() < 0.06


def test_wrbench(tmp_path, views):
    """The files that its compiler writes beside a video, and its list of videos."""
    c2w, frames = views
    root = tmp_path / "runs"
    film(root / "m" / "cat.mp4", frames)
    np.save(root / "m" / "cat.mp4.target_c2w.npy", c2w.numpy().astype(np.float32))
    k = np.tile(np.array([[28.6, 0, 24], [0, 28.6, 16], [0, 0, 1.0]]), (len(c2w), 1, 1)).tolist()
    about = {"coordinate_convention": "opencv_c2w", "camera_type": "yaw_RL", "fps": 16, "frame_count": len(c2w), "c2w": c2w.tolist(), "intrinsics": k}
    (root / "m" / "cat.mp4.camera_trajectory.json").write_text(json.dumps(about))
    np.save(root / "m" / "dog.mp4.target_c2w.npy", c2w.numpy())
    assert layout_of(root) == "wrbench"
    world = make(root)
    assert world.names == ("m/cat", "m/dog") and "1 of 2 videos are missing: m/dog" in world.about()[1]
    made = world.scored(0)
    assert torch.equal(made.task.c2w, c2w) and made.task.pairs and made.task.intrinsics[0, 0] == pytest.approx(28.6)
    (root / "videos.json").write_text(json.dumps([{"video_path": "m/cat.mp4", "model": "x", "camera": "yaw"}]))
    assert make(root).names == ("m/cat",)
    (root / "m" / "cat.mp4.target_c2w.npy").unlink()
    assert torch.allclose(make(root, layout="wrbench").scored(0).task.c2w, c2w, atol=1e-6)
    for part, wrong in (("c2w", {"0": 1}), ("c2w", [[1, 2], [3]]), ("intrinsics", {"f": 2})):
        (root / "m" / "cat.mp4.camera_trajectory.json").write_text(json.dumps(about | {part: wrong}))
        with pytest.raises(ValueError, match=f"camera_trajectory.json: .*{part}.* no numbers"):
            make(root, layout="wrbench").scored(0)
    (root / "m" / "cat.mp4.camera_trajectory.json").unlink()
    with pytest.raises(FileNotFoundError, match="neither cat.mp4.target_c2w.npy nor cat.mp4.camera_trajectory.json"):
        make(root, layout="wrbench").scored(0)
    (root / "videos.json").write_text("{}")
    assert "holds no video" in str(pytest.raises(FileNotFoundError, make, root, layout="wrbench").value)


def test_a_cut_is_seen_only_where_it_is_clear(views):
    frames = torch.from_numpy(views[1]).permute(0, 3, 1, 2).float() / 255
    assert cut_at_start(frames[2], frames[:4]) == 2 and cut_at_start(frames[0], frames[:4]) == 0
    assert cut_at_start(torch.rand(3, *SIZE), frames[:4]) == 0 and cut_at_start(frames[2], frames[:1]) == 0
