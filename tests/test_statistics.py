"""Intervals, tests and sample sizes, against counting by hand, scipy's own functions and simulation."""

import csv
import io
import itertools
import json
import re

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from harness.reporting import text
from harness.reporting.command import main as report
from harness.reporting.compared import noise_band, shown
from harness.reporting.groups import read_runs
from harness.reporting.notes import notes
from harness.reporting.terminal import comparison
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.results.statistics import adjusted, detectable, fewest, needed, p_value, paired
from tests.made_runs import make_run


def test_sign_flips_are_counted():
    """All 2^n ways to flip the signs; a mean at least as far from zero as the one that was seen."""
    x = (0.4, 0.1, -0.05, 0.3, 0.2, 0.35)
    means = [abs(np.mean(np.array(x) * signs)) for signs in itertools.product((-1, 1), repeat=len(x))]
    assert p_value(x) == pytest.approx(np.mean(np.array(means) >= abs(np.mean(x)) - 1e-12))
    assert p_value((0.1,) * 6) == pytest.approx(2 / 64) and p_value((0.1,) * 5) == pytest.approx(2 / 32)
    assert p_value((0.0, 0.0)) == 1.0 and p_value((1.0,)) is None


def test_many_trajectories_agree_with_the_t_test():
    x = np.random.default_rng(3).normal(0.2, 1.0, 60)
    assert p_value(tuple(x)) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=0.02)
    first = p_value(tuple(x))
    p_value.cache_clear()
    assert p_value(tuple(x)) == first, "the same in every process"


def test_nothing_is_called_different_more_often_than_it_says():
    """20 policies that do not differ, 8 trajectories: rarely is any of them starred."""
    rng, starred = np.random.default_rng(0), 0
    for _ in range(100):
        found = adjusted([p_value(tuple(rng.normal(size=8))) for _ in range(20)])
        starred += any(p < 0.05 for p in found)
    assert starred <= 12, "5 of 100, give or take"


def test_values_that_are_missing_stay_missing():
    assert adjusted([0.01, None, 0.04]) == [0.02, None, 0.04] and adjusted([None]) == [None] and adjusted([]) == []


@pytest.mark.parametrize("n", [6, 24])
def test_what_can_be_found_is_found_in_8_of_10_cases(n):
    rng = np.random.default_rng(n)
    effect = detectable(2.0, n)
    x = rng.normal(effect, 2.0, (4000, n))
    assert np.mean(stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.02)
    assert detectable(2.0, needed(2.0, effect)) <= effect and needed(2.0, effect) <= n + 1


def test_sample_sizes_that_make_no_sense_are_refused():
    for difference in (0.0, -1.0, 1e-6):
        with pytest.raises(ValueError, match="trajectories"):
            needed(1.0, difference)
    assert detectable(1.0, 1) == detectable(0.0, 5) == float("inf") and detectable(0.0, 6) == 0.0, "5 sign flips show nothing"
    assert needed(0.0, 0.5) == needed(0.05, 0.5) == 6 and needed(0.0, 0.5, comparisons=20) == 10


@pytest.mark.parametrize(("comparisons", "n"), [(1, 6), (2, 7), (5, 8), (20, 10)])
def test_fewest_is_the_least_number_that_can_be_starred(comparisons, n):
    def starred(trajectories: int) -> bool:
        q = adjusted([p_value((1.0,) * trajectories), *[0.9] * (comparisons - 1)])[0]
        return q is not None and q < 0.05

    assert fewest(comparisons) == n and starred(n) and not starred(n - 1)


@pytest.mark.parametrize(("comparisons", "n"), [(1, 8), (3, 12), (6, 13)])
def test_a_lone_difference_of_that_size_is_starred_in_8_of_10_cases(comparisons, n):
    rng, effect = np.random.default_rng(5), detectable(1.0, n, comparisons)
    found = [adjusted([p_value(tuple(rng.normal(effect, 1.0, n))), *rng.random(comparisons - 1)])[0] for _ in range(150)]
    assert np.mean([q is not None and q < 0.05 for q in found]) > 0.66, "0.8 less 4 standard errors of 150 cases"


def test_a_difference_says_how_sure_it_is():
    mine, other = ({f"t{i}": {"q": v + d} for i, v in enumerate((1.0, 2.0, 4.0))} for d in (0.5, 0.0))
    found = paired(mine, other, "q")
    assert found["mean"] == 0.5 and found["n"] == 3 and found["p"] == pytest.approx(2 / 8) and found["sd"] == pytest.approx(0)
    assert paired(mine, {}, "q") is None


EIGHT = tuple(f"test{i:04d}_turn" for i in range(8))


@pytest.fixture
def experiment(tmp_path):
    """Three policies on eight trajectories: one far better than full KV, one that is not told from it."""
    for policy, quality in (("full", 30.0), ("worldkv", 32.0), ("h2o", 30.02)):
        make_run(tmp_path / "e", policy, quality=quality, names=EIGHT)
    return tmp_path / "e"


def test_tables_star_what_is_significant_and_say_among_how_many(experiment):
    runs, _ = read_runs(experiment)
    cells = {row["run"]: row["PSNR revisit to full"] for row in text.table(runs, "full")}
    assert "*" in cells["worldkv"] and "*" not in cells["h2o"] and cells["full"] == "baseline"
    (note,) = (n for n in notes(runs, "full") if n.startswith("*"))
    assert not any("not comparable" in n for n in notes(runs, "full")), "one group"
    assert "over 2 comparisons" in note and "8 trajectories find a difference of" in note
    rows = list(csv.DictReader(io.StringIO(text.comma_separated(runs, "full"))))
    by_run = {row["run"]: row for row in rows}
    p, q = (float(by_run["worldkv"][f"quality/psnr_revisit/difference/{k}"]) for k in ("p", "p_adjusted"))
    assert p == pytest.approx(2 / 256) and q == pytest.approx(2 * p) and by_run["full"]["quality/psnr_revisit/difference/p"] == ""


def test_a_difference_within_the_noise_band_is_marked(experiment):
    """full under another seed differs by about 0.3 dB: h2o, 0.02 dB from it, cannot be told from noise, worldkv can."""
    runs, _ = read_runs(experiment)
    assert not any(n.startswith("~") for n in notes(runs, "full")) and noise_band(runs, runs, shown(runs)[0]) is None
    make_run(experiment, "full", quality=30.3, names=EIGHT, seed=1, noise="other")
    runs, _ = read_runs(experiment)
    cells = {row["run"]: row["PSNR revisit to full"] for row in text.table(runs, "full")}
    assert "~" in cells["h2o"] and "~" not in cells["worldkv"]
    (note,) = (n for n in notes(runs, "full") if n.startswith("~"))
    assert re.search(r"up to 0\.[2-5]\d dB in PSNR revisit", note)


def test_few_trajectories_are_said_to_be_few(tmp_path):
    for policy, quality in (("full", 30.0), ("worldkv", 35.0)):
        make_run(tmp_path / "e", policy, quality=quality, names=EIGHT[:4])
    runs, _ = read_runs(tmp_path / "e")
    assert "*" not in text.table(runs, "full")[0]["PSNR revisit to full"]
    assert any("over 1 comparisons); 4 trajectories cannot show it, 6 can" in n for n in notes(runs, "full"))


def test_what_is_no_better_than_an_unrelated_view_is_said_to_mean_nothing(tmp_path):
    def noted(quality: float) -> bool:
        folder = tmp_path / f"q{quality}"
        for policy in ("full", "worldkv"):
            file = make_run(folder, policy, quality=quality, names=EIGHT) / "results.json"
            results = json.loads(file.read_text())
            results["summary"]["quality/psnr_floor"] = {"mean": 12.0, "ci95": None, "n": 8}
            file.write_text(json.dumps({k: v for k, v in results.items() if k != "sum"}))
        runs, _ = read_runs(folder)
        return any("quality means nothing here" in n for n in notes(runs, "full"))

    assert noted(5.0) and not noted(30.0)


def test_a_run_that_lacks_trajectories_says_so_and_is_not_the_best(tmp_path):
    """Of worldkv the two best trajectories are left, as good as full's: its mean is higher all the same."""
    make_run(tmp_path / "e", "full", quality=30.0, names=EIGHT)
    make_run(tmp_path / "e", "sliding", quality=20.0, names=EIGHT)
    path = make_run(tmp_path / "e", "worldkv", quality=30.0, names=EIGHT)
    folder = RunFolder(path)
    results = folder.results()
    assert results is not None
    for name in EIGHT[:6]:
        (path / "trajectories" / f"{name}.json").unlink()
        folder.write(Record(name, {}, error="out of memory"))
    folder.finish(results["run"], list(EIGHT), columns=results["columns"])
    runs, _ = read_runs(tmp_path / "e")
    said = Console(width=200, file=io.StringIO(), record=True)
    said.print(comparison(tmp_path / "e", path, 200))
    table = said.export_text()
    assert "worldkv: 6 trajectories failed and are missing" in table and "(2)" in table
    rows = {row.run.label: row for row in text.rows(runs, shown(runs), "full")}
    assert "quality/psnr_revisit" in rows["full"].best and not rows["worldkv"].best


def test_the_command_says_how_many_trajectories_are_needed(experiment, capsys):
    report([str(experiment), "--effect", "0.5"])
    said = capsys.readouterr().out
    assert re.search(r"h2o: \d+ trajectories find 0.5 dB in PSNR revisit to full", said) and "full:" not in said
    for policy in ("h2o", "places", "snapkv", "sliding"):  # a larger group, without the baseline
        make_run(experiment, policy, names=EIGHT, seed=1, noise="other")
    report([str(experiment), "--effect", "0.5"])
    assert capsys.readouterr().out.replace(" seed=0", "") == said, "of the group that has the baseline"
    report([str(experiment), "--effect", "0.01", "--column", "quality/lpips_revisit"])
    assert "find 0.01" in (said := capsys.readouterr().out) and "in LPIPS revisit to full" in said
    wrong = ((["--effect", "0"], "above 0"), (["--effect", "1", "--baseline", "nobody"], "no run of nobody"))
    for arguments, why in (*wrong, (["--effect", "1", "--column", "cost/fps"], "quality/psnr_revisit"), (["--column", "recall/psnr"], "--effect")):
        with pytest.raises(SystemExit):
            report([str(experiment), *arguments])
        assert why in capsys.readouterr().err
