"""What is written beside the loop: in order, with no error lost, and the record last."""

import errno
import json
import os
import threading
import time
from types import SimpleNamespace

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from harness.evaluation.callbacks import ResultWriter
from harness.evaluation.live import LiveLog
from harness.evaluation.runner import Outcome
from harness.outcome import Rollout
from harness.reporting import media
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.system.background import Background
from harness.trajectory import Trajectory


def test_jobs_run_in_order_and_beside():
    background, seen, gate = Background(), [], threading.Event()
    background.do([gate.wait, lambda: seen.append("a"), lambda: seen.append(threading.current_thread() is threading.main_thread())])
    assert seen == [], "nobody waited"
    gate.set()
    background.do([lambda: seen.append("b")])
    background.close()
    assert seen == ["a", False, "b"]


def test_an_error_ends_its_jobs_and_is_raised_once():
    background, seen = Background(), []

    def fail():
        raise OSError(errno.ENOSPC, "full")

    background.do([fail, lambda: seen.append("after it")])
    with pytest.raises(OSError, match="full"):
        background.do([lambda: seen.append("next")])
    background.do([lambda: seen.append("later")])
    background.close()
    assert seen == ["later"], "what was handed over with the error's news was not taken"


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="no priorities here")
def test_the_thread_stands_back_and_the_main_one_does_not():
    background, found = Background(), []
    mine = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    background.do([lambda: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))])
    background.close()
    assert found == [19] and os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == mine


def picture(n: int, y: int, x: int) -> np.ndarray:
    """A bright square that moves over a gradient."""
    frames = np.zeros((n, y, x, 3), np.uint8)
    frames[..., 1] = np.linspace(0, 255, x, dtype=np.uint8)
    for i in range(n):
        frames[i, 4:12, 2 * i : 2 * i + 8] = (255, 40, 40)
    return frames


@pytest.mark.parametrize(("size", "fps"), [((64, 64), 16.0), ((17, 23), 8.5), ((300, 402), 5.0)])
def test_a_video_can_be_read_and_shows_what_it_was_given(tmp_path, size, fps):
    """yuv420p H.264 at the asked rate; enlarged by whole pixels; nothing left beside it."""
    frames = picture(9, *size)
    media.save_video(tmp_path / "v.mp4", frames, fps)
    about = iio.immeta(tmp_path / "v.mp4", plugin="pyav")
    assert about["codec"] == "h264" and about["video_format"].startswith("yuv420p") and about["fps"] == pytest.approx(fps)
    read = iio.imread(tmp_path / "v.mp4", plugin="pyav")
    factor = max(1, 256 // min(size))
    assert read.shape == (9, size[0] * factor // 2 * 2, size[1] * factor // 2 * 2, 3)
    wanted = frames.repeat(factor, 1).repeat(factor, 2)[:, : read.shape[1], : read.shape[2]]
    error = np.square(read.astype(float) - wanted).mean()
    assert 10 * np.log10(255**2 / error) > 27
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


@pytest.fixture
def outcome():
    """A made-up trajectory of nine frames with one pair, and who asks for it to be written."""
    frames, eye = torch.rand(9, 3, 16, 16), torch.eye(4).repeat(9, 1, 1)
    trajectory = Trajectory("t", eye, torch.ones(9, 4), torch.zeros(9, 6), frames[:3], (), reference=frames)
    record = Record("t", {"a": 1.0}, [{"first": 0, "revisit": 8, "psnr_revisit": 20.0}])
    return Outcome(record, trajectory, Rollout(frames, torch.ones(9, dtype=torch.bool), (), "")), SimpleNamespace(world=SimpleNamespace(names=["t"]))


def write(folder: RunFolder, outcome, module):
    writer = ResultWriter(folder, videos=1, live=LiveLog(folder.path, 0))
    writer.on_predict_start(None, module)
    writer.write_on_batch_end(None, module, outcome, None, 0, 0, 0)
    return writer


def test_the_record_comes_last(tmp_path, outcome, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    real, there = media.save_video, []

    def slow(path, frames, fps):
        time.sleep(0.1)
        there.append((path.name, folder.done()))
        real(path, frames, fps)

    monkeypatch.setattr("harness.reporting.media.save_video", slow)
    write(folder, *outcome).on_predict_end(None, None)
    assert there == [("t.mp4", set()), ("t_pairs.mp4", set())], "no record before the media"
    assert folder.done() == {"t"}
    assert {p.name for p in (folder.path / "videos").iterdir()} == {"t.png", "t_true.png", "t.mp4", "t_pairs.mp4"}
    assert (folder.path / "trajectories" / "t.png").exists()


def test_a_full_disk_ends_the_run_with_path_and_remedy_and_no_record(tmp_path, outcome, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    real = os.replace

    def full(self, target):
        if str(target).endswith(".mp4"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, target)
        return target

    monkeypatch.setattr("pathlib.Path.replace", full)
    writer = write(folder, *outcome)
    with pytest.raises(OSError, match=r"could not write .*t\.mp4 .*No space left on device; .*free some space") as error:
        writer.on_predict_end(None, None)
    assert error.value.errno == errno.ENOSPC
    assert folder.done() == set(), "the trajectory runs again"
    assert not list(folder.path.rglob("*.partial*"))


def test_what_is_being_written_when_something_else_fails_is_finished(tmp_path, outcome):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    write(folder, *outcome).on_exception(None, None, ValueError("another trajectory"))
    assert folder.done() == {"t"}
    assert json.loads((folder.path / "trajectories" / "t.json").read_text())["values"] == {"a": 1.0}
