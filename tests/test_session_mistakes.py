"""What a session refuses, and what it says: mistakes, closed and broken sessions."""

import pytest
import torch

from tests.test_session import CHUNKS, first_chunk


def test_mistakes_are_named(begin, trajectory, backbone):
    session = begin(path=first_chunk(trajectory))
    session.step()
    with pytest.raises(ValueError, match=r"chunk 1 of 3 latent frames is not within the 3 video frames.*give poses or actions"):
        session.step()
    with pytest.raises(ValueError, match="2 c2w are given, chunk 1 of test0000_R90L90R60L60 has 3 video frames"):
        session.step(trajectory.c2w[3:5])
    with pytest.raises(ValueError, match="say nothing of the pose; give c2w too"):
        session.step(actions=torch.zeros(3, 6))
    session.step(trajectory.c2w[3:6])
    assert session.done == 2


def test_what_cannot_be_done_yet_or_any_more_says_so(begin, tmp_path):
    session = begin()
    with pytest.raises(ValueError, match="nothing to save before the first chunk; step first"):
        session.save(tmp_path / "empty")
    assert not (tmp_path / "empty").exists()
    session.step()
    session.close()
    for again in (session.step, session.fork, lambda: session.save(tmp_path / "closed")):
        with pytest.raises(ValueError, match="is closed, so it cannot"):
            again()


def test_what_failed_half_way_does_not_go_on(begin, trajectory, backbone, monkeypatch, tmp_path):
    session = begin()
    session.step()
    monkeypatch.setattr(backbone, "renoise", lambda x0, t, noise: x0 * float("nan"))
    with pytest.raises(FloatingPointError, match="NaN or infinity in chunk 1"):
        session.step()
    monkeypatch.undo()
    for again in (session.step, session.fork, lambda: session.save(tmp_path / "broken")):
        with pytest.raises(ValueError, match="chunk 1 failed half-way"):
            again()
    assert begin().step()[1].chunk == 0, "the backbone serves the next session"


def test_frames_that_cannot_be_revisited_change_nothing(begin, trajectory):
    session = begin()
    for _ in range(4):
        session.step()
    for frames, message in (
        (range(20, 23), "has the video frames 0 to 11 so far, not 20, 21, 22"),
        ((-1, 0, 1), "not -1"),
        (range(4), "4 frames are given, chunk 4 of .* has 3 video frames"),
        ([999, 1, 2], "not 999"),
    ):
        with pytest.raises(ValueError, match=message):
            session.revisit(frames)
    assert session.known == CHUNKS, "the path that was known still is"
    with pytest.raises(ValueError, match="intrinsics, overlap and truth belong to poses"):
        session.step(intrinsics=trajectory.intrinsics[:3])
    session.step()
