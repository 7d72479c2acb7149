"""The report in headless Chromium, from disk. Screenshots for people: outputs/screenshots/, or the folder SCREENSHOTS."""

import json
from contextlib import suppress
from functools import partial

import imageio.v3 as iio
import pytest

from harness.reporting import groups
from harness.reporting.compared import corrected, shown
from harness.system.files import summed, unsummed
from tests.made_runs import NAMES, make_run
from tests.report_pages import CHROMIUM, PHONE, SCREENSHOTS, SECTIONS, WIDE, chromium, every_plot, names, new_tab, visited, write

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Python's playwright: pip install -e '.[dev]'")
pytest.importorskip("plotly", reason="needs plotly: pip install -e '.[report]'")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the path: apt-get install chromium, or set CHROMIUM to an executable")


@pytest.fixture(scope="module")
def browser():
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def tab(browser):
    """One for all tests: each of their own would compile the plotting library anew, 2 s of processor time."""
    return new_tab(browser)


@pytest.fixture
def visit(tab):
    """Open a report from disk as if for the first time; at the end nothing may have been complained about."""
    page, complaints = tab
    complaints.clear()
    yield partial(visited, page)
    assert not complaints


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three policies with videos, a grid of four, and a run of another seed."""
    folder = tmp_path_factory.mktemp("report") / "made"
    for policy, quality, cost in (("full", 33.0, 4e6), ("worldkv", 32.5, 2e6), ("sliding", 22.0, 1e6)):
        make_run(folder, policy, quality=quality, cost=cost, film=True)
    for retrieved in (3, 6):
        for ratio in (0.25, 0.5):
            make_run(folder, "grid", quality=29 + retrieved / 3 + ratio, cost=1e6 * (1 + ratio), settings={"retrieved": retrieved, "ratio": ratio})
    make_run(folder, "full", quality=33.3, seed=1)
    write(folder)
    return folder / "report"


def test_it_sorts_and_filters(visit, made):
    page = visit(made)
    first = names(page)
    assert len(first) == 8 and first[-1] == "sliding"  # the best PSNR first
    page.click("#table button[data-key='quality/psnr_revisit']")
    assert names(page)[0] == "sliding"
    assert page.get_attribute("#table th[aria-sort=ascending] button", "data-key") == "quality/psnr_revisit"
    page.click("#table button[data-key='quality/psnr_revisit/difference']")
    page.fill("#filter", "psnr>30 stored<3")
    assert page.inner_text("#count") == "5 of 8 runs"
    page.fill("#filter", "nothing-like-it")
    assert "No run" in page.inner_text("#table tbody")
    page.keyboard.press("Escape")
    assert len(names(page)) == 8
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "filter"


def test_what_is_not_comparable_is_marked(visit, made):
    page = visit(made)
    assert "not comparable" in page.inner_text("#notes") and "seed: 1 / 0" in page.inner_text("#notes")
    assert page.locator("#table .badge").count() == 1
    page.select_option("#baseline", "worldkv")
    row = page.locator("#table tr", has=page.locator("input[aria-label='follow worldkv']"))
    assert "baseline" in row.inner_text()
    assert page.locator("#table td", has_text="not comparable").count() == 2  # PSNR and LPIPS of the other seed


def test_the_pages_intervals_are_pythons(visit, made):
    """The page computes differences for any baseline itself: the same resamples, so the same digits."""
    from harness.reporting import text

    page = visit(made)
    runs, _ = groups.read_runs(made.parent)
    for row in text.rows(runs, shown(runs), "worldkv"):
        if row.base is None or row.base is row.run:
            continue
        found = page.evaluate("([id, base]) => paired(BY_ID.get(id), BY_ID.get(base), 'quality/psnr_revisit')", [row.run.path.name, row.base.path.name])
        assert row.differences["quality/psnr_revisit"] == f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}] ({found['n']})"


@pytest.mark.parametrize("count", [8, 20])
def test_the_pages_significance_is_the_tables(visit, tmp_path, count):
    """For any baseline: the p-values by the page's own flips (all of 8, random ones of 20), and the marks where the tables have stars."""

    folder, many = tmp_path / "e", tuple(f"test{i:04d}_turn" for i in range(count))
    for policy, quality in (("full", 30.0), ("worldkv", 30.2), ("h2o", 30.02), ("places", 30.31), ("sliding", 29.0)):
        make_run(folder, policy, quality=quality, names=many)
    write(folder)
    page, (runs, _) = visit(folder / "report"), groups.read_runs(folder)
    for baseline in ("full", "places"):
        page.select_option("#baseline", baseline)
        base = next(r for r in runs if r.label == baseline)
        for column in (c for c in shown(runs) if c.difference):
            p_values = corrected(runs, base, column)
            for run in (r for r in runs if r is not base):
                p = page.evaluate("([id, base, key]) => pValue(differences(BY_ID.get(id), BY_ID.get(base), key))", [run.path.name, base.path.name, column.key])
                wanted = p_values[run.path][0]
                chance = 5 * (4 * wanted / 9999) ** 0.5 if count > 13 else 0.0  # 5 standard errors of the difference of two such estimates
                assert p == pytest.approx(wanted, abs=chance + 1e-9)
            stars = page.evaluate("([base, key]) => [...starred(BY_ID.get(base), key)]", [base.path.name, column.key])
            assert set(stars) == {path.name for path, (_, q) in p_values.items() if q < 0.05}
    marks = page.eval_on_selector_all("#table td span.better, #table td span.worse", "found => found.length")
    assert 0 < marks < 4 * sum(c.difference for c in shown(runs))


def test_few_trajectories_have_no_marks(visit, made):
    """5 of them cannot show a difference, however large: sliding is 11 dB below full."""
    page = visit(made)
    assert page.locator("#table td span.unsure").count() and not page.locator("#table td span.better, #table td span.worse").count()


def test_a_point_selects_its_run_and_a_run_opens_its_videos(visit, made):
    page = visit(made)
    every_plot(page)
    page.evaluate("set({ followed: [], focus: null })")
    page.evaluate("document.getElementById('tradeoffs').scrollIntoView()")
    which = page.evaluate("$('pareto-a').data[1].customdata.findIndex((id) => BY_ID.get(id).name === 'sliding')")
    point = page.locator("#pareto-a .scatterlayer .trace").nth(1).locator(".point").nth(which)
    chosen = "state.followed.length === 1 && BY_ID.get(state.followed[0]).name === 'sliding'"
    for _ in range(20):  # a plot that is still being laid out moves away from the mouse, or out of view
        page.mouse.move(0, 0)
        page.evaluate("document.getElementById('tradeoffs').scrollIntoView()")
        with suppress(sync_api.Error):
            point.hover(force=True)
        page.wait_for_timeout(300)
        if page.locator("#pareto-a .hoverlayer .hovertext").count():
            page.mouse.down()
            page.mouse.up()
            page.wait_for_timeout(300)
        if page.evaluate(chosen):
            break
    assert page.evaluate(chosen)
    page.click("button[aria-label='videos of worldkv']")
    assert page.eval_on_selector_all("#cards .card h3", "found => found.map((h) => h.textContent)") == ["sliding", "worldkv"]
    assert page.evaluate("$('grid').data[0].z.flat().filter((v) => v !== null).length") == 4
    assert page.evaluate("$('pareto-a').data[0].x.length") > 1  # the front


def test_it_scrubs_videos_and_memory(visit, made):
    page = visit(made)
    for name in ("worldkv", "sliding"):
        page.locator(f"input[aria-label='follow {name}']").check()
    page.evaluate("document.getElementById('films').scrollIntoView()")
    page.wait_for_selector("#cards canvas")
    page.focus("#slider")
    page.keyboard.press("End")
    assert "frame 17/17" in page.inner_text("#where") and "revisit" in page.inner_text("#where")
    page.wait_for_function("[...cards.values()].every((card) => card.now.at === 17 && card.first.at === card.pair[0])")  # one slider moves all
    for view in page.locator("#cards canvas").all():
        assert iio.imread(view.screenshot())[..., :3].std() > 10, view.get_attribute("aria-label")  # a picture, not a blank
    card = page.locator(".card", has=page.get_by_text("worldkv", exact=True))
    assert card.locator(".cell").evaluate_all("all => all.map((c) => c.dataset.state)") == ["A", "R", "S", "S", "A", "now"]
    assert card.locator(".cell b").nth(1).inner_text() == "50 %"
    lost = page.locator(".card", has=page.get_by_text("sliding", exact=True)).locator(".said").inner_text()
    assert "3 unreachable (1–3)" in lost
    page.keyboard.press("p")
    assert "frame 16/17" in page.inner_text("#where")
    page.wait_for_selector("#map .main-svg")
    page.wait_for_function("location.hash.includes('frame=16')")
    again = visit(made, view=page.evaluate("location.hash"))
    again.evaluate("document.getElementById('films').scrollIntoView()")
    again.wait_for_selector("#cards canvas")
    assert "frame 16/17" in again.inner_text("#where")  # a link brings the view back


def test_it_answers_which_policy(visit, made, tmp_path):
    page = visit(made)
    said = {card.locator("h3").inner_text(): card.inner_text() for card in page.locator("#answers .answer").all()}
    assert list(said) == ["Best quality", "Cheapest within 0.5 dB of full", "Fastest"]
    assert "full" in said["Best quality"] and "PSNR revisit" in said["Best quality"]
    assert "worldkv" in said["Cheapest within 0.5 dB of full"] and "50 % of full's" in said["Cheapest within 0.5 dB of full"]
    assert "grid" in said["Fastest"] or "sliding" in said["Fastest"]
    folder = tmp_path / "few"
    make_run(folder, "full", quality=30.0, names=NAMES[:4])
    make_run(folder, "worldkv", quality=30.0, cost=2e6, names=NAMES[:4], device="another machine")
    write(folder)
    page = visit(folder / "report")
    assert "n=4: order uncertain" in page.inner_text("#answers .answer")
    assert page.locator("#answers .answer", has_text="Fastest").count() == 0 and "2 devices" in page.inner_text("#answer-note")


def test_a_busy_machine_has_no_fastest_policy(visit, tmp_path):
    """As in the printed table: a run that waited for a core in more than a twentieth of its time."""
    for policy in ("full", "worldkv"):
        path = make_run(tmp_path, policy, names=NAMES)
        results = unsummed(json.loads((path / "results.json").read_text()))
        results["summary"]["cost/share_waited"] = {"mean": 0.2 if policy == "full" else 0.0, "ci95": None, "n": len(NAMES)}
        (path / "results.json").write_text(json.dumps(summed(results)))
    write(tmp_path)
    page = visit(tmp_path / "report")
    assert page.locator("#answers .answer", has_text="Fastest").count() == 0 and "other work ran on the machine" in page.inner_text("#answer-note")
    assert page.evaluate("[...bestValues().keys()].some((key) => key.includes('fps'))") is False


def test_every_policy_says_what_it_does(visit, made):
    page = visit(made)
    assert page.locator("#table .does", has_text="camera retrieval").count()
    assert page.locator("#about-text dt", has_text="worldkv").count() == 1


def test_paper_shows_everything(visit, made):
    page = visit(made)
    assert page.locator("#films .main-svg").count() == 0, "drawn when it comes into view, so not yet"
    page.wait_for_function("cards.size === 3 && [...cards.values()].every((card) => card.now?.at === state.frame)")  # nobody has been there
    pdf = page.pdf(print_background=True)
    for section in SECTIONS:
        assert (
            page.locator(f"#{section} .plot").count()
            == page.locator(f"#{section} .plot:has(.main-svg), #{section} .plot.empty, #{section} [hidden] .plot").count()
        ), section
    assert len(pdf) > 100_000
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    (SCREENSHOTS / "report.pdf").write_bytes(pdf)


def test_unknown_words_of_the_filter_are_named(visit, made):
    page = visit(made)
    page.fill("#filter", "pnsr>30 worldkv")
    assert "no column or setting pnsr; there are psnr," in page.inner_text("#strangers")
    page.fill("#filter", "wordlkv")
    assert "No run has “wordlkv”" in page.inner_text("#strangers")
    page.fill("#filter", "worldkv psnr>30 unreachable=0 ratio=0.5")
    assert page.inner_text("#strangers") == ""


def test_chunks_are_numbered_and_reached_by_keys(visit, made):
    page = visit(made)
    page.evaluate("document.getElementById('films').scrollIntoView()")
    page.wait_for_selector("#cards .cell")
    strip = page.locator("#cards .strip").first
    assert strip.locator(".cell em").all_inner_texts() == [str(i) for i in range(6)]
    assert strip.locator(".cell[tabindex='0']").count() == 1, "one stop of the tab key"
    strip.locator(".cell[tabindex='0']").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("state.frame") == 3 and page.evaluate("document.activeElement.ariaLabel").startswith("chunk 1: now")
    assert page.evaluate("document.activeElement.ariaCurrent") == "true"


def test_pictures_enlarge(visit, made):
    page = visit(made)
    page.evaluate("document.getElementById('films').scrollIntoView()")
    page.wait_for_function("[...cards.values()].every((card) => card.now?.at === state.frame)")
    picture = page.locator(".picture").nth(1)
    small = picture.bounding_box()
    picture.click()
    assert page.locator("#large[open]").count() == 1 and page.locator("#large-picture").bounding_box()["width"] > 2 * small["width"]
    assert iio.imread(page.locator("#large-picture").screenshot())[..., :3].std() > 10
    page.keyboard.press("Escape")
    assert page.locator("#large[open]").count() == 0


@pytest.mark.parametrize("size", [WIDE, (760, 900), PHONE])
def test_the_player_is_not_under_the_header(visit, made, size):
    page = visit(made, size)
    page.evaluate("document.getElementById('films').scrollIntoView({ behavior: 'instant' })")
    page.wait_for_selector("#cards canvas")
    page.evaluate("scrollBy({ top: 500, behavior: 'instant' })")
    page.wait_for_timeout(200)
    header, player = (page.locator(s).bounding_box() for s in (".top", ".player"))
    assert player["y"] >= header["y"] + header["height"] - 1 and player["y"] >= 0
