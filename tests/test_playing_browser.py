"""The page that one walks in, in headless Chromium. Screenshots for people: outputs/screenshots/, or the folder SCREENSHOTS."""
# ruff: noqa: E402  (what may be missing is asked for before what needs it)

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="needs Python's playwright: pip install -e '.[dev]'")
pytest.importorskip("starlette", reason="needs starlette: pip install -e '.[play]'")
pytest.importorskip("websockets", reason="needs websockets: pip install -e '.[play]'")

from harness.playing.film import Serving
from harness.playing.setup import Choice, Setup

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the path: apt-get install chromium, or set CHROMIUM to an executable")
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS") or ROOT / "outputs" / "screenshots")
MODEL = os.environ.get("PLAY_MODEL", "rooms_tiny")  # PLAY_MODEL=rooms: screenshots of the shipped model
WIDE, PHONE = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("play"))
    tiny = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny") if MODEL == "rooms_tiny" else (f"backbone={MODEL}",)
    with Serving(Setup(tiny), [Choice("worldkv", "w18"), Choice("sliding", "w18")], linger=5.0) as served:
        yield served
    os.chdir(before)


@pytest.fixture
def visit(browser, address):
    """Open the page; at the end nothing may have been complained about."""
    complaints, contexts = [], []

    def go(size=WIDE, scheme="light", touch=False):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, has_touch=touch)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(150_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        page.wait_for_selector("html[data-ready=yes]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not complaints


def until(page, function, arg=None):
    """Wait until a function of the page says yes. (Not by its frames: a page behind another one draws few.)"""
    page.wait_for_function(function, arg=arg, polling=50)


def chunk(page, *keys, times=1):
    """Walk `times` chunks with these keys, one after the other."""
    for _ in range(times):
        before = page.evaluate("play.walk.chunks")
        page.evaluate("keys => play.send({do: 'chunk', keys})", list(keys))
        until(page, "before => play.walk.chunks > before", arg=before)


def anew(page):
    before = page.evaluate("play.walk.version")
    page.click("#begin")
    until(page, "before => play.walk.version > before", arg=before)


def states(page, pane):
    return page.locator(".pane").nth(pane).locator(".cell").evaluate_all("all => all.map((cell) => cell.dataset.state)")


PIXELS = "canvas => canvas.toDataURL()"


def pixels(page, selector):
    """What a canvas shows, to see it change."""
    return page.eval_on_selector(selector, PIXELS)


def keep(page, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=SCREENSHOTS / f"play_{name}.png", full_page=True)


def test_walk_away_and_come_back(visit):
    """A key is a chunk in every pane, with the same camera; PSNR, strips, map and first visits change."""
    page = visit()
    anew(page)
    shown = pixels(page, ".pane canvas"), pixels(page, "#map"), pixels(page, "#truth")
    for _ in range(6):  # a tap may come before a page on a busy machine listens
        page.keyboard.press("ArrowRight")
        try:
            page.wait_for_function("() => play.walk.chunks >= 2 && play.latency > 0", timeout=20_000)
            break
        except playwright.TimeoutError:
            continue
    chunks = page.evaluate("play.walk.chunks")
    until(page, "n => play.walk.camera.length === 3 * n", arg=chunks)
    assert page.evaluate("play.panes.map((p) => p.about.psnr.length)") == [chunks, chunks], "both panes are in step"
    until(page, f"shown => ({PIXELS})(document.querySelector('.pane canvas')) !== shown", arg=shown[0])
    assert pixels(page, "#map") != shown[1]
    chunk(page, "right", times=4)
    chunk(page, "left", times=chunks + 3)
    until(page, "() => play.walk.visit?.frame <= 2 && !play.panes[0].first.hidden")
    assert "dB from now" in page.locator(".pane").first.locator(".visit").inner_text()
    assert page.locator("#true-first").is_visible()
    assert states(page, 0)[-1] == "now" and "R" in states(page, 0) and "U" not in states(page, 0)
    assert "U" in states(page, 1) and "unreachable" in page.locator(".pane").nth(1).locator(".said").inner_text()
    assert page.locator(".pane").first.locator(".figures dd").all_inner_texts()[3] != "–"
    keep(page, "light")
    print("key to picture, ms:", page.evaluate("play.latencies"))


def test_held_keys_walk_on_until_they_are_let_go(visit):
    page = visit()
    anew(page)
    page.keyboard.down("d")
    until(page, "() => play.walk.chunks >= 3")
    page.keyboard.up("d")
    page.evaluate("() => new Promise((done) => setTimeout(done, 600))")
    stopped = page.evaluate("play.walk.chunks")
    page.evaluate("() => new Promise((done) => setTimeout(done, 600))")
    assert page.evaluate("play.walk.chunks") == stopped
    page.focus("#name")
    page.keyboard.type("wasd")
    assert page.input_value("#name") == "wasd" and page.evaluate("play.walk.chunks") == stopped, "letters in a field are letters"


def test_another_policy_a_fork_and_a_third_pane(visit):
    page = visit()
    anew(page)
    chunk(page, "right", times=3)
    page.click("#remember")
    page.wait_for_selector("#marks .chip")
    chunk(page, "W")
    version = page.evaluate("play.walk.version")
    page.get_by_label("policy of pane 2").select_option("full")
    until(page, "before => play.walk.version > before", arg=version)
    assert page.locator(".pane h2").nth(1).inner_text().startswith("full, from chunk 5")
    chunk(page, "left")
    assert set(states(page, 1)[:-1]) == {"A"}
    page.get_by_label("compression ratio of pane 1").fill("0.5")
    page.keyboard.press("Tab")
    until(page, "() => play.walk.panes[0].ratio === 0.5")
    page.locator("#marks .chip").first.click()
    until(page, "() => play.walk.chunks === 4")
    assert page.locator(".pane h2").nth(1).inner_text().startswith("sliding"), "as it was when it was remembered"
    page.click("#add")
    until(page, "() => play.walk.panes.length === 3")
    chunk(page, "left")
    assert page.evaluate("play.panes.map((p) => p.about.states.length)") == [4, 4, 4]
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDE[0]
    keep(page, "three")
    page.locator(".pane h2 .chip").last.click()
    until(page, "() => play.walk.panes.length === 2")


def test_save_and_reopen(visit):
    page = visit()
    anew(page)
    chunk(page, "right", times=2)
    page.fill("#name", "mine")
    page.click("#save")
    until(page, "() => play.saved?.name === 'mine'")
    assert "harness/report.py outputs/play/mine" in page.inner_text("#saved-text")
    chunk(page, "W")
    page.click("#open")
    until(page, "() => play.walk.chunks === 3 && play.walk.camera.length === 9")
    page.fill("#name", "../mine")
    page.click("#save")
    page.wait_for_selector("#message:not([hidden])")
    assert "is no name for a walk" in page.inner_text("#message")


def test_a_second_page_watches_and_takes_over(visit):
    one, two = visit(), visit()
    two.wait_for_selector("#notice:not([hidden])")
    before = two.evaluate("play.walk.chunks")
    two.keyboard.press("ArrowLeft")
    two.wait_for_selector("#message:not([hidden])")
    chunk(one, "right")
    until(two, "before => play.walk.chunks > before", arg=before)
    two.click("#take")
    one.wait_for_selector("#notice:not([hidden])")
    chunk(two, "right")


@pytest.mark.parametrize(("name", "size", "scheme"), [("dark", WIDE, "dark"), ("phone", PHONE, "light"), ("phone_dark", PHONE, "dark")])
def test_it_can_be_read(visit, name, size, scheme):
    page = visit(size, scheme, touch=size == PHONE)
    anew(page)
    chunk(page, "right", times=2)
    before = page.evaluate("play.walk.chunks")
    button = page.locator("[data-key=left]")
    button.tap() if size == PHONE else button.click()
    until(page, "before => play.walk.chunks > before", arg=before)
    chunk(page, "right", "W", times=3)
    chunk(page, "left", times=3)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    keep(page, name)
