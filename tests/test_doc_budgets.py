"""A bench at several budgets: every run is compared with the base at its own budget, and a table shows them side by side."""

import json
import re
from pathlib import Path

import pytest

from harness.reporting import collected
from harness.reporting.benches import BENCHES
from harness.reporting.budgets import budgets_table
from harness.reporting.collected import collect
from tests.made_runs import make_run

QUALITY = {  # revisit PSNR by policy and budget
    "worldkv": {"w18": 30.0, "w12": 25.0, "w24": 31.0},
    "h2o": {"w18": 28.0, "w12": 26.0},
    "full": {"w18": 33.0},
}


def bench_of(folder: Path, leave_out: tuple[str, str] | None = None) -> Path:
    """outputs/houses_guided with runs at three budgets; a label names the budget where it is not the default."""
    for policy, qualities in QUALITY.items():
        for budget, quality in qualities.items():
            if (policy, budget) != leave_out:
                settings: dict = {} if budget == "w18" else {"budget": budget}
                make_run(folder / "houses_guided", policy, quality=quality, settings=settings)
    return folder / "houses_guided"


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(collected, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "houses_guided.json"


def test_a_run_is_compared_with_the_base_at_its_own_budget(tmp_path, results):
    collect(bench_of(tmp_path))
    runs = json.loads(results.read_text())["runs"]
    found = {label: round(run["difference"]["quality/psnr_revisit"]["mean"]) for label, run in runs.items() if run["difference"]}
    assert found == {"h2o": -2, "h2o budget=w12": 1, "full": 3}


def test_the_table_of_budgets_shows_them_side_by_side(tmp_path, results):
    collect(bench_of(tmp_path))
    lines = budgets_table("budgets", json.loads(results.read_text()), lambda label: f"<{label}>").splitlines()
    cells = [[re.sub(r" \[.*?\]", "", cell).strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == ["policy", *(f"PSNR revisit, budget={b}" for b in ("w12", "w18", "w24"))]
    by_policy = {row[0]: [re.sub(r"[*~]|\.\d+", "", cell) for cell in row[1:]] for row in cells[2:]}
    assert list(by_policy) == ["<worldkv>", "<h2o>"], "best first; `full` has no other budget"
    at_12, at_18, at_24 = by_policy["<h2o>"]
    assert re.search(r"\(\+\d+\)", at_12) and re.search(r"\(-\d+\)", at_18) and not at_24
    assert not any("(" in cell for cell in by_policy["<worldkv>"])
    assert "1 at w12, 2 at w18, 0 at w24" in lines[-1]


def test_a_budget_without_its_base_is_refused(tmp_path, results):
    with pytest.raises(ValueError, match="has no run of worldkv budget=w12, with which `h2o budget=w12` is compared; run that too"):
        collect(bench_of(tmp_path, leave_out=("worldkv", "w12")))
    assert not results.exists()


def test_one_budget_alone_is_no_table_of_budgets(tmp_path, results):
    for policy in ("worldkv", "h2o"):
        make_run(tmp_path / "houses_guided", policy)
    collect(tmp_path / "houses_guided")
    with pytest.raises(ValueError, match="has no run at budget=w12,w24, which the table `budgets` shows"):
        budgets_table("budgets", json.loads(results.read_text()), str)


def test_the_base_of_a_run():
    tokens, stored = BENCHES["houses_guided"], BENCHES["houses_bytes"]
    assert [tokens.base_of(x) for x in ("h2o", "worldkv selector=x budget=w12", "h2o budget=w24")] == ["worldkv", "worldkv budget=w12", "worldkv budget=w24"]
    assert [stored.base_of(f"capped inner=fifo frames={n}") for n in (30, 45)] == [f"capped inner=worldkv frames={n}" for n in (30, 45)]
    assert BENCHES["trained"].base_of("worldkv arm=control") == "worldkv", "arms are compared with the base's weights"


def test_a_run_is_told_by_its_whole_value_of_the_key():
    """300 frames are neither 30 nor more of them; whatever else a label names stays, in its place."""
    bench = BENCHES["houses_bytes"]
    assert bench.leads("capped inner=fifo") and bench.leads("capped inner=fifo frames=30") and not bench.leads("capped inner=fifo frames=300")
    assert [bench.base_of(f"capped inner=fifo frames={n}") for n in (30, 45, 450)] == [bench.base, "capped inner=worldkv frames=45", bench.base]
    assert bench.at("capped inner=fifo frames=30 evict=alike", "45") == "capped inner=fifo frames=45 evict=alike"
    assert bench.at("capped inner=fifo", "45") == "capped inner=fifo frames=45"
    assert bench.name("capped inner=fifo frames=30 evict=alike") == "fifo evict=alike"
