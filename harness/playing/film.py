"""A film of the page: a script of keys is walked in headless Chromium, and every video frame of it is a picture of the page."""

import io
import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import uvicorn
from PIL import Image

from harness.playing.camera import read_script
from harness.playing.hub import Hub
from harness.playing.server import listen, make_app
from harness.playing.serving import start_worker
from harness.playing.setup import Choice, Setup
from harness.system.files import atomic_path

FORMATS = {".mp4": 16, ".gif": 6, ".webp": 6}  # suffix -> video frames a second: of the world in a film, fewer in a page's moving picture
SHAPE = 0.64  # height of the film for its width
WAIT = 120_000  # milliseconds for a chunk, on a slow machine


def film(setup: Setup, choices: Sequence[Choice], script: Path, target: Path, width: int, seconds: float, opened: str = "") -> int:
    """Walk a script and write the film. Returns the exit status; raises ValueError or OSError for what is missing."""
    if target.suffix not in FORMATS:
        raise ValueError(f"film={target}: use one of {', '.join(FORMATS)}")
    chunks, rate = read_script(script.read_text()), FORMATS[target.suffix]
    most = int(seconds * rate / setup.frames_px)
    if len(chunks) > most:
        raise ValueError(f"{script} has {len(chunks)} chunks, {seconds:g} s are {most} of {setup.frames_px} video frames; shorten it, or raise seconds=")
    chromium, playwright = _browser()
    target.parent.mkdir(parents=True, exist_ok=True)
    with Serving(setup, choices, opened) as address, playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width // 2 * 2, "height": int(width * SHAPE) // 2 * 2})
        page.set_default_timeout(WAIT)
        page.goto(f"{address}?film=yes")
        page.wait_for_selector("html[data-ready=yes]")
        pictures = [_shot(page)]
        for chunk, keys in enumerate(chunks, 1):
            before = page.evaluate("play.walk.chunks")
            page.evaluate("keys => play.send({do: 'chunk', keys})", sorted(keys))
            page.wait_for_function("before => play.walk.chunks > before || !document.getElementById('message').hidden", arg=before, polling=50)
            if page.evaluate("!document.getElementById('message').hidden"):
                raise ValueError(f"chunk {chunk} of the script: {page.inner_text('#message')}")
            for i in range(setup.frames_px):
                page.evaluate("i => play.frame(i)", i)
                pictures.append(_shot(page))
            print(f"\rchunk {chunk} of {len(chunks)}", end="", flush=True)
        browser.close()
    _write(target, pictures, rate)
    print(f"\n{target}: {len(pictures) / rate:.1f} s, {target.stat().st_size / 1e6:.2f} MB")
    return 0


class Serving:
    """The page's server in a thread, at a free port of this machine, while the block runs."""

    def __init__(self, setup: Setup, choices: Sequence[Choice], opened: str = "", linger: float = 10.0) -> None:
        self.hub = Hub(linger)
        self.hub.worker = self.worker = start_worker(setup, choices, self.hub, opened)
        self._server = uvicorn.Server(uvicorn.Config(make_app(self.hub, setup), log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1))
        self._socket = listen("127.0.0.1", 0)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, name="server", daemon=True)

    def __enter__(self) -> str:
        """The address. Raises what kept the model from being made."""
        self._thread.start()
        self.worker.ready.wait()
        if self.worker.failed is not None:
            self.__exit__()
            raise self.worker.failed
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/"

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self.worker.end()
        self._thread.join(timeout=10)
        self.worker.join(timeout=30)


def _browser():
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise ValueError("a film needs Python's playwright: pip install playwright") from None
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        raise ValueError("a film needs Chromium: apt-get install chromium, or set CHROMIUM to an executable")
    return chromium, sync_playwright


def _shot(page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))


def _write(target: Path, pictures: Sequence[np.ndarray], rate: int) -> None:
    with atomic_path(target) as temporary:
        if target.suffix == ".mp4":
            iio.imwrite(temporary, np.stack(pictures), plugin="pyav", fps=rate, codec="libx264", out_pixel_format="yuv420p")
            return
        images = [Image.fromarray(p) for p in pictures]
        if target.suffix == ".gif":
            palette = images[len(images) // 2].quantize(128)
            images = [i.quantize(palette=palette, dither=Image.Dither.NONE) for i in images]
        more = {"save_all": True, "append_images": images[1:], "duration": round(1000 / rate), "loop": 0}
        if target.suffix == ".webp":
            images[0].save(temporary, "WEBP", quality=60, method=4, **more)
        else:
            images[0].save(temporary, "GIF", optimize=True, **more)
