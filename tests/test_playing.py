"""The page that one walks in, without a browser: camera and walls, the walk, messages, pages that come and go, saving, the command."""
# ruff: noqa: E402  (what may be missing is asked for before what needs it)

import json
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("starlette", reason="needs starlette: pip install -e '.[play]'")
websockets = pytest.importorskip("websockets.sync.client", reason="needs websockets: pip install -e '.[play]'")

from harness.playing import saving
from harness.playing.camera import Camera, read_script
from harness.playing.command import Asked
from harness.playing.command import _walk as walk_of
from harness.playing.film import Serving
from harness.playing.hub import Hub, packed
from harness.playing.messages import Choose, Keys, read
from harness.playing.server import make_app
from harness.playing.setup import Choice, Setup
from harness.playing.visits import first_visit
from harness.playing.walk import Walk
from harness.rollout import rollout
from harness.worlds.poses import integrate
from harness.worlds.rooms import make_room
from tests.conftest import ROOT, make_policy

TINY = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny")
WORLDKV, SLIDING = Choice("worldkv", "w18"), Choice("sliding", "w18")
SHORT = 60  # seconds that a test waits for what takes a fraction of one


@pytest.fixture(scope="module")
def setup():
    return Setup(TINY)


@pytest.fixture
def walk(setup):
    told = []
    made = Walk(setup, [WORLDKV, SLIDING], lambda about, *pictures: told.append(about))
    made.told = told
    made.begin()
    yield made
    made.close()


def steps(walk, script):
    for keys in read_script(script):
        walk.step(keys)


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


def test_a_world_without_a_truth_is_walked_without_one(tmp_path):
    """`world=recorded`: no map of rooms, no walls, no PSNR; also the first step of a user's own image."""
    import imageio.v3 as iio

    np.save(tmp_path / "poses.npy", np.eye(4)[None].repeat(4, 0))
    np.save(tmp_path / "intrinsics.npy", np.array([[416.0, 240.0, 416.0, 240.0]]))
    iio.imwrite(tmp_path / "first.png", np.full((32, 48, 3), 90, np.uint8))
    told = []
    walk = Walk(
        Setup(("backbone=rooms_tiny", "world=recorded", f"world.folder={tmp_path}", "world.size=[16,24]")), [SLIDING], lambda about, *p: told.append(about)
    )
    walk.begin()
    for _ in range(2):
        assert walk.step(frozenset("W"))
    assert walk.done == 3 and walk.described()["plan"] is None and walk.panes[0].psnr == [None] * 3
    assert told[-1]["camera"][-1][1] == pytest.approx(6 * 0.12, abs=1e-3)
    walk.close()
    with pytest.raises(ValueError, match="start=3, but the world has 1 trajectories"):
        _ = Setup(("backbone=rooms_tiny", "world=recorded", f"world.folder={tmp_path}"), 3).start


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


def test_panes_walk_in_step_and_equal_a_rollout(walk, setup):
    """The same frames as the main job's loop along the path that was walked; same poses and noise in both panes."""
    steps(walk, "right*4 left*4 W")
    path, forced = walk.path, setup.backbone.encode(setup.start.images)
    for pane, name in zip(walk.panes, ("worldkv", "sliding"), strict=True):
        alone = rollout(setup.backbone, make_policy(name), make_store(), replace(path, metres=0.0), setup.cfg.seed, forced)
        assert torch.equal(alone.frames, pane.session.frames.made) and alone.noise == pane.session.noise
    cameras = [m for m in walk.told if m["type"] == "camera"]
    assert cameras[-2]["visit"]["frame"] <= 2 and cameras[-2]["visit"]["psnr"], "back at the start"
    assert "U" in walk.panes[1].described()["states"] and "U" not in walk.panes[0].described()["states"]


def make_store():
    from harness.cache.stores import GpuStore

    return GpuStore()


def test_another_policy_reads_the_walk_again(walk, setup):
    """From the next chunk on it is as if it had been forced through the walk so far; the other pane does not notice."""
    steps(walk, "right*3 left*2")
    latents = walk.panes[0].session.latents.made.clone()
    walk.choose(1, Choice("worldkv", "w12", 0.5))
    assert torch.equal(walk.panes[1].session.latents.made, walk.panes[1].session.forced) and walk.panes[1].since == 6
    assert torch.equal(walk.panes[0].session.latents.made, latents)
    steps(walk, "left")
    alone = rollout(
        setup.backbone, make_policy("worldkv", "budget=w12", "policy.compressor.ratio=0.5"), make_store(), walk.path, 0, walk.panes[1].session.forced
    )
    assert torch.equal(alone.latents, walk.panes[1].session.latents.made)
    with pytest.raises(ValueError, match="sliding compresses nothing"):
        walk.choose(0, Choice("sliding", "w18", 0.5))
    assert walk.panes[0].made.choice == WORLDKV, "the old one stays"
    walk.choose(2, SLIDING)
    walk.drop(1)
    assert [p.made.choice.policy for p in walk.panes] == ["worldkv", "sliding"]


def test_remember_and_go_back(walk):
    steps(walk, "right*3")
    walk.remember()
    steps(walk, "W left")
    first = [p.session.latents.made.clone() for p in walk.panes]
    for _ in range(2):
        walk.back(0)
        assert walk.done == 4 and len(walk.panes[0].pictures) == len(walk.true_pictures) == 12
        steps(walk, "W left")
        assert all(torch.equal(a, p.session.latents.made) for a, p in zip(first, walk.panes, strict=True))
    walk.forget(0)
    with pytest.raises(ValueError, match="no remembered place 1 of 0"):
        walk.back(0)


def test_a_walk_that_broke_goes_on_from_a_mark(walk, setup, monkeypatch):
    walk.remember()
    monkeypatch.setattr(setup.backbone, "renoise", lambda x0, t, noise: x0 * float("nan"))
    with pytest.raises(FloatingPointError):
        walk.step(frozenset({"right"}))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="cannot go on.*NaN.*begin anew"):
        walk.step(frozenset({"right"}))
    walk.back(0)
    assert walk.step(frozenset({"right"})) and walk.done == 2


def test_saved_and_reopened(walk, setup, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="walk a chunk first"):
        saving.save(walk, "walk")
    steps(walk, "right*5 left*5")
    folder = saving.save(walk, "walk")
    described = walk.described()
    steps(walk, "W right")
    after = [p.session.latents.made.clone() for p in walk.panes]
    saving.reopen(walk, folder)
    changed = {k for k, v in walk.described().items() if v != described[k]}
    assert changed == {"version"}
    steps(walk, "W right")
    assert all(torch.equal(a, p.session.latents.made) for a, p in zip(after, walk.panes, strict=True))
    with pytest.raises(ValueError, match=r"walked with backbone=rooms_tiny.*open it by: python harness/play.py open="):
        saving.reopen(Walk(Setup((*TINY, "seed=1")), [SLIDING], print), folder)
    opened, choices = walk_of(Asked(open=str(folder)))
    assert opened == Setup(TINY) and choices == [WORLDKV, SLIDING], "open=FOLDER brings its own settings"
    with pytest.raises(ValueError, match=r"brings its own settings \(backbone=rooms_tiny.*leave out seed=1"):
        walk_of(Asked(open=str(folder), rest=("seed=1",)))
    with pytest.raises(ValueError, match="holds no saved walk.*walks in outputs/play: walk"):
        walk_of(Asked(open="elsewhere"))
    for name in ("../x", ".x", "a b"):
        with pytest.raises(ValueError, match="no name for a walk"):
            saving.save(walk, name)

    from harness.reporting import data, groups

    report = data.report("walk", *groups.read_runs(folder))
    assert [r["policy"] for r in report["runs"]] == ["worldkv", "sliding"] and len(report["groups"]) == 1
    assert all(r["films"] and r["films"][0]["pairs"] and r["films"][0]["truth"] for r in report["runs"])

    again = Setup((*TINY[:1], "world=recorded", f"world.folder={folder / 'path'}", "world.size=[16,24]"))._world.trajectory(0)
    assert again.name == setup.start.name and torch.allclose(again.c2w, described_path(described, walk)[: len(again.c2w)], atol=1e-6)
    assert torch.allclose(again.intrinsics[0], setup.start.intrinsics[0], atol=1e-3) and len(again.c2w) == 33
    assert np.abs(again.images[0].numpy() - setup.start.images[0].numpy()).max() < 1 / 255
    alone = rollout(setup.backbone, make_policy("sliding"), make_store(), again, 0, setup.backbone.encode(again.images)[:3])
    assert (alone.frames - walk.panes[1].session.frames.made[:33]).abs().max() < 0.02, "the recorded path gives the walk again"


def described_path(described, walk):
    return walk.path.c2w[: len(described["camera"])]


def test_messages_are_checked():
    assert read('{"do": "keys", "keys": ["W"], "at": 3}') == Keys(frozenset("W"), 3.0)
    assert read('{"do": "choose", "pane": 1, "policy": "full", "budget": "w12", "ratio": null}') == Choose(1, Choice("full", "w12"))
    bad = ("", "[]", "nul", '{"do": "run"}', '{"do": "keys"}', '{"do": "keys", "keys": ["Q"]}', '{"do": "keys", "keys": [[]]}', '{"do": "back", "mark": -1}')
    bad += ('{"do": "back", "mark": true}', '{"do": "choose", "pane": 0, "policy": 3, "budget": "w18"}', '{"do": "save"}', "[" * 3000, " " * 5000)
    bad += ('{"do": "choose", "pane": 0, "policy": "worldkv", "budget": "w18", "ratio": NaN}',)
    for text in bad:
        with pytest.raises(ValueError):
            read(text)


class Client:
    """A page without a browser."""

    def __init__(self, stack, address, **headers):
        self.socket = stack.enter_context(websockets.connect(address.replace("http", "ws") + "live", max_size=None, **headers))

    def send(self, **message):
        self.socket.send(json.dumps(message))

    def until(self, kind, check=lambda message: True):
        end = time.monotonic() + SHORT
        while time.monotonic() < end:
            data = self.socket.recv(timeout=SHORT)
            size = struct.unpack("<I", data[:4])[0]
            message = json.loads(data[4 : 4 + size])
            assert len(data) == 4 + size + sum(message["sizes"])
            if message["type"] == kind and check(message):
                return message
        raise TimeoutError(kind)


@pytest.fixture
def visit(served):
    """Pages that are closed at the end of a test."""
    with ExitStack() as stack:
        yield partial(Client, stack, served[1])


@pytest.fixture(scope="module")
def served():
    serving = Serving(Setup(TINY), [WORLDKV, SLIDING], linger=0.3)
    with serving as address:
        yield serving, address


def test_keys_walk_and_a_second_page_watches(visit):
    one = visit()
    assert one.until("role")["walks"]
    start = one.until("walk")
    assert start["chunks"] == 1
    one.send(do="keys", keys=["right"], at=5.0)
    one.send(do="keys", keys=[])
    first = one.until("chunk")
    assert first["chunk"] == 1 and first["pressed_at"] == 5.0 and len(first["sizes"]) == 3, "a tap is a chunk, however short"
    turned = one.until("camera", lambda m: m["chunk"] == 1)["camera"][-1][2] - start["camera"][-1][2]
    assert turned % 360 == pytest.approx(45, abs=0.01)
    two = visit()
    assert not two.until("role")["walks"] and two.until("walk")["chunks"] == 2
    two.send(do="chunk", keys=["left"])
    assert "another page walks" in two.until("refused")["text"]
    for text in ("nonsense", '{"do": "fly"}', '{"do": "back", "mark": 7}'):
        one.socket.send(text)
    assert one.until("refused") and "do='fly'" in one.until("refused")["text"] and "no remembered place" in one.until("error")["text"]
    one.send(do="chunk", keys=["left"])
    assert two.until("camera")["chunk"] == 2, "who watches sees it too"
    two.send(do="take")
    assert not one.until("role", lambda m: not m["walks"])["walks"]
    two.send(do="chunk", keys=["wait"])
    assert one.until("camera")["chunk"] == 3


def test_a_closed_page_gives_everything_back_and_a_new_one_begins_anew(served, visit):
    serving, _ = served
    one = visit()
    one.until("walk")
    one.send(do="remember")
    one.until("walk", lambda m: m["marks"])
    one.send(do="keys", keys=["right"])
    one.until("camera")
    walk = serving.worker.walk
    sessions = [weakref.ref(p.session) for p in [*walk.panes, *walk.marks[0].panes]]
    one.socket.close()  # with the key still down
    end = time.monotonic() + SHORT
    while time.monotonic() < end and (walk.panes or any(s() for s in sessions)):
        time.sleep(0.05)
    assert not walk.panes and not walk.marks and not any(s() for s in sessions)
    assert visit().until("walk")["chunks"] == 1


def test_pages_of_other_sites_and_hosts_are_refused(served, visit):
    import httpx

    _, address = served
    assert httpx.get(address).status_code == 200
    assert httpx.get(address, headers={"host": "evil.example:80"}).status_code == 403
    assert httpx.get(address + "command.py").status_code == 404
    assert httpx.get(address + "frame/1/7/0").content.startswith(b"\x89PNG"), "a picture that is gone is grey, and no error"
    with pytest.raises(Exception, match="403"):
        visit(origin="http://evil.example")


def test_a_token_is_asked_for():
    from starlette.testclient import TestClient

    client = TestClient(make_app(Hub(1.0), Setup(), "secret"), base_url="http://10.0.0.1")
    assert client.get("/").status_code == 403 and client.get("/?token=wrong").status_code == 403
    assert client.get("/?token=secret").status_code == 200
    assert client.get("/play.js").status_code == 200, "by its cookie"


def test_a_page_that_does_not_read_never_holds_the_model_up():
    """Its messages are dropped, and it is told all of the walk anew."""
    import asyncio

    async def go():
        hub = Hub(1.0)
        hub.loop = asyncio.get_running_loop()
        asked = []
        hub.worker = type("W", (), {"do": lambda self, command: asked.append(command)})()
        page = hub.join()
        began = time.perf_counter()
        await asyncio.to_thread(lambda: [hub.tell({"type": "chunk"}, b"x" * 1000) for _ in range(500)])
        seconds = time.perf_counter() - began
        await asyncio.sleep(0)
        return page.outbox.qsize(), len(asked), seconds

    waiting, asked, seconds = asyncio.run(go())
    assert waiting <= 64 and asked > 1 and seconds < 5


def test_a_message_travels_whole():
    data = packed({"type": "chunk"}, (b"ab", b"c"))
    size = struct.unpack("<I", data[:4])[0]
    assert json.loads(data[4 : 4 + size]) == {"type": "chunk", "sizes": [2, 1]} and data[4 + size :] == b"abc"


def test_settings_of_the_page():
    headless = Asked.of(["policy=full", "--headless", "walks/keys.txt"])
    assert (headless.script, headless.film, headless.policy) == ("walks/keys.txt", "walks/keys.mp4", "full")
    assert Asked.of(["--headless", "keys.txt", "film=a.gif"]).film == "a.gif"
    with pytest.raises(ValueError, match="needs a file of keys"):
        Asked.of(["--headless"])
    asked = Asked.of(["policy=full", "port=0", "world=houses", "policy.sink=3"])
    assert (asked.policy, asked.port, asked.rest) == ("full", 0, ("world=houses", "policy.sink=3"))
    for arguments, message in (
        (["port=x"], "port=x is no number"),
        (["port=70000"], "use 1 to 65535"),
        (["film=a.mp4"], "go together"),
        (["walk"], "name=value"),
    ):
        with pytest.raises(ValueError, match=message):
            Asked.of(arguments)


def started(*arguments):
    command = [sys.executable, str(ROOT / "harness" / "play.py"), *TINY, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_command_ends_as_it_should(tmp_path):
    """A port in use is one line with the remedy; SIGTERM gives 143 and Ctrl-C 130, without a traceback."""
    import signal

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        busy = started(f"port={port}")
        servers = [started("port=0"), started("port=0")]
        assert busy.wait(120) == 1
        said = busy.stderr.read()
        assert said.startswith("error: ") and f"use port={port + 1}" in said and said.count("\n") == 1
    for server, sign, code in zip(servers, (signal.SIGTERM, signal.SIGINT), (143, 130), strict=True):
        assert "http://127.0.0.1:" in server.stdout.readline()
        threading.Event().wait(1)
        server.send_signal(sign)
        assert server.wait(120) == code
        assert server.stderr.read() == ""
