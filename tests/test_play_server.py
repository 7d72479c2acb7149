"""The page's server, without a browser: messages, pages that come and go, who may come, settings, how the command ends."""
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
from functools import partial

import pytest

pytest.importorskip("starlette", reason="needs starlette: pip install -e '.[play]'")
pytest.importorskip("websockets.sync.client", reason="needs websockets: pip install -e '.[play]'")

from harness.playing.command import Asked
from harness.playing.film import Serving
from harness.playing.hub import Hub, packed
from harness.playing.messages import Choose, Keys, read
from harness.playing.server import make_app
from harness.playing.setup import Choice, Setup
from tests.conftest import ROOT
from tests.play_pages import SHORT, SLIDING, TINY, WORLDKV, Client


def test_messages_are_checked():
    assert read('{"do": "keys", "keys": ["W"], "at": 3}') == Keys(frozenset("W"), 3.0)
    assert read('{"do": "choose", "pane": 1, "policy": "full", "budget": "w12", "ratio": null}') == Choose(1, Choice("full", "w12"))
    bad = ("", "[]", "nul", '{"do": "run"}', '{"do": "keys"}', '{"do": "keys", "keys": ["Q"]}', '{"do": "keys", "keys": [[]]}', '{"do": "back", "mark": -1}')
    bad += ('{"do": "back", "mark": true}', '{"do": "choose", "pane": 0, "policy": 3, "budget": "w18"}', '{"do": "save"}', "[" * 3000, " " * 5000)
    bad += ('{"do": "choose", "pane": 0, "policy": "worldkv", "budget": "w18", "ratio": NaN}',)
    huge = "1" + "0" * 400
    assert read(f'{{"do": "keys", "keys": [], "at": {huge}}}') == Keys(frozenset(), None)
    bad += (f'{{"do": "choose", "pane": 0, "policy": "worldkv", "budget": "w18", "ratio": {huge}}}',)
    for text in bad:
        with pytest.raises(ValueError):
            read(text)


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
