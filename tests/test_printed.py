"""What the terminal shows fits where it is printed, and nothing is cut."""

import io
import json

import pytest
from rich.console import Console

from harness.reporting import terminal
from harness.reporting.columns import columns_of
from harness.system.files import unsummed
from tests.made_runs import make_run


def printed(*parts, width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(*parts)
    return console.export_text()


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "e"
    make_run(folder, "sliding", quality=22.0, cost=1e6)
    make_run(folder, "full", quality=33.0, cost=4e6)
    make_run(folder, "worldkv", quality=32.5, cost=2e6, settings={"ratio": 0.25, "retrieved": 6})
    return folder


@pytest.mark.parametrize("width", [60, 80, 110, 160, 240])
def test_the_terminals_table_fits_and_cuts_nothing(experiment, width):
    (current,) = experiment.glob("worldkv*")
    text = printed(terminal.comparison(experiment, current, width), width=width)
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    lines = text.splitlines()
    order = [next(i for i, line in enumerate(lines) if line.startswith(name)) for name in ("full", "worldkv", "sliding")]
    assert order == sorted(order), "the best quality first"
    summary = json.loads(next(experiment.glob("full*/results.json")).read_text())["summary"]["quality/psnr_revisit"]
    assert f"{summary['mean']:.2f}" in text and f"[{summary['ci95'][0]:.2f} {summary['ci95'][1]:.2f}]" in text, "columns give way, not digits"
    assert text.count("─\n") == 1, "one table"
    assert ("unreachable" in text.split("not shown")[0]) == (width >= 110)
    assert ("not shown for lack of room" in text) == (width < 160)


def test_a_run_alone_says_where_it_stands(tmp_path):
    """Floor under what is compared with the first visit, ceiling under the true view alone, and how to compare."""
    path = make_run(tmp_path / "e", "worldkv")
    results = unsummed(json.loads((path / "results.json").read_text()))
    entry = results["summary"]["quality/psnr_revisit"]
    for kind, mean in (("reference", 28.0), ("floor", 15.5), ("ceiling", 31.5)):
        results["summary"][f"quality/psnr_{kind}"] = entry | {"mean": mean, "ci95": [mean, mean]}
    (path / "results.json").write_text(json.dumps(results))
    lines = printed(terminal.comparison(tmp_path / "e", path, 80), width=80).splitlines()
    head, floor, ceiling = (next(line for line in lines if line.startswith(word)) for word in ("policy", "floor ", "bound "))
    ends = {word: head.index(word) + len(word) for word in ("revisit", "true view")}
    assert floor.rstrip().endswith("15.50") and len(floor.rstrip()) == ends["revisit"]
    assert ceiling.rstrip().endswith("31.50") and len(ceiling.rstrip()) == ends["true view"]
    assert "compare: -m policy=full,sliding,worldkv" in lines


def test_published_figures_stand_below_ours(tmp_path):
    path = make_run(tmp_path / "e", "worldkv", published={"worldkv": {"psnr": 15.66, "fps_last": 4.78, "fid": 75.6}})
    text = printed(terminal.comparison(tmp_path / "e", path, 160), width=160)
    (row,) = [line for line in text.splitlines() if line.startswith("worldkv, published")]
    assert "15.66" in row
    column = columns_of([json.loads((path / "results.json").read_text())], ["fps_last"])
    assert "cost/fps_last" in [c.key for c in column], "a column of the paper's, although no run of ours has it"


def test_the_progress_line_is_whole_at_80_columns(monkeypatch):
    from types import SimpleNamespace

    from harness.evaluation.callbacks import ChunkProgress

    monkeypatch.setenv("COLUMNS", "80")
    progress = ChunkProgress(128, 12, True)
    for name in ("test0000_turn", "test0127_R180F20L180F20R180_with_a_long_name"):
        progress.observe(name, SimpleNamespace(forced=False, frames_px=12, seconds=0.031, chunk=118))
        (line,) = [text for text in printed(progress._bar.make_tasks_table(progress._bar.tasks), width=80).splitlines() if text.strip()]
        assert "chunk 118: 387.1 fps" in line and "…" not in line and len(line.rstrip()) <= 80
        assert (name in line) == (len(name) < 20)
