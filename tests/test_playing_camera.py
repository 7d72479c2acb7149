"""The camera of a walk: keys and poses, walls and the ground, scripts of keys, views that come again."""

import pytest
import torch

from harness.playing.camera import Camera, read_script
from harness.playing.setup import Setup
from harness.playing.visits import first_visit
from harness.worlds.poses import integrate
from harness.worlds.rooms import make_room


def test_a_way_back_ends_where_it_began():
    camera = Camera(torch.eye(4), 0.12, 10.0)
    there = camera
    for keys in read_script("W*3 right*2 W+D*2"):
        there, _, _, _ = there.walk(keys, 3, None)
    back = there
    for keys in read_script("S+A*2 left*2 S*3"):
        back, _, _, _ = back.walk(keys, 3, None)
    assert back == camera and there != camera


def test_poses_are_what_the_actions_lead_to():
    """Out of one another's code: `worlds.poses.integrate` on the actions gives the camera's own poses."""
    camera, poses, actions = Camera(torch.eye(4), 0.12, 10.0), [torch.eye(4)[None]], [torch.zeros(1, 6)]
    for keys in read_script("W right W+D left*2 S+left A wait"):
        camera, c2w, moves, _ = camera.walk(keys, 3, None)
        poses.append(c2w)
        actions.append(moves)
    assert torch.allclose(torch.cat(poses), integrate(torch.cat(actions), 0.12), atol=1e-6)


def test_walls_stop_the_camera_and_let_it_slide():
    room = make_room(200_000_000)
    camera, slid = Camera(torch.eye(4), 0.3, 10.0), False
    for _ in range(30):
        before = camera
        camera, c2w, actions, blocked = camera.walk({"W", "D"}, 3, room.free)
        assert room.free(c2w[:, [0, 2], 3]).all()
        slid |= blocked and camera != before
    assert slid and blocked and camera == before, "first along the wall, then into its corner"
    assert not actions[:, :4].any(), "what the model is told is what the camera did"


@pytest.mark.parametrize("world", ["rooms_tiny", "houses_tiny"])
def test_the_ground_is_that_of_the_trajectory(world):
    """Its true views are the world's own, and where its path leads one may stand; off the plan one may not."""
    made = Setup(("backbone=rooms_tiny", f"world={world}"), 1)
    path, ground = made._world.trajectory(1), made.ground
    assert torch.allclose(ground.view(path.c2w[:4], path.intrinsics[:4], made.size), path.reference[:4], atol=1e-6)
    assert ground.free(path.c2w[:, [0, 2], 3]).all() and not ground.free(torch.tensor([[1e3, 0.0]])).any()
    x, z = path.c2w[0, [0, 2], 3].tolist()
    assert any(x0 < x < x1 and z0 < z < z1 for x0, z0, x1, z1 in ground.plan()["open"])
    assert torch.equal(made.start.images[0], (path.images[0] * 255).round() / 255) and torch.equal(made.camera().pose, path.c2w[0])


def test_scripts():
    assert read_script("W*2 W+left # remark\nwait") == [frozenset("W")] * 2 + [frozenset({"W", "left"}), frozenset({"wait"})]
    for text, message in (("W*x", r"cannot read 'W\*x'"), ("up", "line 1 of the script"), ("# nothing", "no keys")):
        with pytest.raises(ValueError, match=message):
            read_script(text)


def test_visits():
    out = integrate(torch.tensor([[0.0] * 6] + [[0, 0, 0, 0, 15.0, 0]] * 12 + [[0, 0, 0, 0, -15.0, 0]] * 12), 0.1)
    found = first_visit(out, 80.0)
    assert found.frame == 0 and found.exact
    near = out.clone()
    near[-1, 0, 3] = 0.1
    assert not first_visit(near, 80.0).exact and first_visit(near, 80.0).metres == pytest.approx(0.1)
    assert first_visit(out[:13], 80.0) is None, "seen for the first time"
    assert first_visit(out[:1].repeat(20, 1, 1), 80.0) is None, "never left"
