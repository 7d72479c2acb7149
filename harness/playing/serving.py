"""The server from its start to its end: a socket, the model's thread, signals, and a clean close."""

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from harness.playing import saving
from harness.playing.hub import Hub
from harness.playing.messages import LARGEST
from harness.playing.server import LOOPBACK, listen, make_app
from harness.playing.setup import Choice, Setup
from harness.playing.walk import Walk
from harness.playing.worker import Worker


class _Server(uvicorn.Server):
    """Signals are ours: they close the walk first, and the exit status says which one it was."""

    @contextlib.contextmanager
    def capture_signals(self):
        yield


def serve(setup: Setup, choices: Sequence[Choice], host: str, port: int, linger: float, opened: str = "") -> int:
    """Serve the page until a signal comes. Returns the exit status; raises ValueError or OSError for what cannot start."""
    sock = listen(host, port)  # before seconds of imports and weights
    token = "" if host in LOOPBACK else secrets.token_urlsafe(16)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{sock.getsockname()[1]}/" + (f"?token={token}" if token else "")
    print(f"walk at {address}   (Ctrl-C ends)", flush=True)
    hub = Hub(linger)
    hub.worker = worker = start_worker(setup, choices, hub, opened)
    try:
        return asyncio.run(_until_signal(hub, worker, setup, sock, token))
    finally:
        worker.end()
        worker.join(timeout=30)


def start_worker(setup: Setup, choices: Sequence[Choice], hub: Hub, opened: str = "") -> Worker:
    """The model's thread, which begins to load the model. opened: a saved walk to go on with."""

    def make() -> Walk:
        walk = Walk(setup, list(choices), hub.tell)
        if opened:
            saving.reopen(walk, Path(opened))
        else:
            walk.begin()
        return walk

    worker = Worker(make)
    worker.start()
    return worker


async def _until_signal(hub: Hub, worker: Worker, setup: Setup, sock, token: str) -> int:
    config = uvicorn.Config(
        make_app(hub, setup, token), log_level="warning", access_log=False, ws="websockets-sansio", ws_max_size=4 * LARGEST, timeout_graceful_shutdown=2
    )
    server, status = _Server(config), 0
    loop = asyncio.get_running_loop()

    def end(code: int) -> None:
        nonlocal status
        status, server.should_exit = code, True

    for sign, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        loop.add_signal_handler(sign, end, code)

    async def watch() -> None:
        """The server ends when the model cannot be made, or its thread has died."""
        while worker.is_alive():
            await asyncio.sleep(0.2)
        end(1)

    watching = asyncio.create_task(watch())
    await server.serve(sockets=[sock])
    watching.cancel()
    if worker.failed is not None:
        raise worker.failed if isinstance(worker.failed, ValueError | OSError) else ValueError(f"the model could not be made: {worker.failed}")
    return status
