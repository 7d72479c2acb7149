"""The report in headless Chromium, for its tests: the browser, a tab with the network off, a page that is opened and scrolled through."""

import os
import shutil
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from harness.reporting import data, groups
from tests.conftest import ROOT

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SCREENSHOTS = Path(os.environ.get("SCREENSHOTS") or ROOT / "outputs" / "screenshots")
WIDE, PHONE = (1280, 900), (390, 844)
VISITS = count()
SECTIONS = ("tradeoffs", "rollout", "revisits", "films")


def write(experiment):
    from harness.reporting.page import write_page  # needs plotly

    write_page(experiment / "report", experiment, data.report(experiment.name, *groups.read_runs(experiment)))


@contextmanager
def chromium():
    from playwright.sync_api import sync_playwright  # needs the package

    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


def new_tab(browser):
    """A tab with the network off, and what it complains of."""
    page, complaints = browser.new_context(offline=True).new_page(), []
    page.set_default_timeout(90_000)  # machines that do other work too
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    left = "net::ERR_ABORTED"  # what the page was still loading when it was left
    page.on("requestfailed", lambda r: complaints.append(r.url) if not r.url.endswith(".mp4") and r.failure != left else None)  # a seek cancels a read
    return page, complaints


def open_report(page, folder, size=WIDE, scheme="light", view=""):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{(folder / 'index.html').as_uri()}{view}", wait_until="domcontentloaded")
    page.wait_for_selector("html[data-ready=yes]")


def visited(page, folder, size=WIDE, scheme="light", view=""):
    """Its report, opened as if for the first time."""
    open_report(page, folder, size, scheme, f"?{next(VISITS)}{view}")  # else another place in the same report would be no new start
    return page


def names(page):
    return page.eval_on_selector_all("#table tbody tr[data-run] .name", "found => found.map((name) => name.title)")


def every_plot(page):
    """Scroll through, so that what is drawn when it comes into view is drawn."""
    for section in SECTIONS:
        for plot in page.query_selector_all(f"#{section} .plot"):  # on a phone the last one of a section is far from its heading
            plot.evaluate("node => node.scrollIntoView({ behavior: 'instant', block: 'center' })")
            page.wait_for_function("node => node.matches('.empty') || node.querySelector('.main-svg') || !node.checkVisibility()", arg=plot)
