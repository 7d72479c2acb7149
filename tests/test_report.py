"""The report without a browser: what is compared, with what, and how it is said."""

import csv
import io
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.stats import bootstrap

from harness.reporting import command as report
from harness.reporting import data, groups, text
from harness.reporting.compared import paired_runs, shown
from harness.reporting.notes import notes
from harness.reporting.trace import trace
from harness.results.run_folder import RunFolder
from tests.conftest import ROOT
from tests.made_runs import DEVICE, NAMES, make_run

PSNR = "quality/psnr_revisit"


@pytest.fixture
def experiment(tmp_path):
    """Comparable runs, and four that are not: another seed, metric version, noise; and one on another device."""
    folder = tmp_path / "mixed"
    make_run(folder, "full", quality=33.0, cost=4e6)
    make_run(folder, "worldkv", quality=32.5, cost=2e6)
    make_run(folder, "sliding", quality=22.0, cost=1e6, device="another machine")
    make_run(folder, "full", quality=33.1, seed=1)
    make_run(folder, "worldkv", quality=32.6, version="2")
    make_run(folder, "sliding", quality=22.2, noise="other")
    return folder


def printed(capsys, *arguments):
    report.main([*map(str, arguments)])
    return capsys.readouterr().out


def test_intervals_are_paired_and_equal_scipys(experiment):
    """Differences by hand from the records; the interval against scipy's percentile bootstrap, to its Monte-Carlo error."""
    runs, _ = groups.read_runs(experiment)
    home = [r for r in runs if r.group == 0]
    row = next(r for r in text.rows(home, shown(home), "full") if r.run.label == "worldkv")
    entry = paired_runs(row.run, row.base, next(c for c in shown(home) if c.key == PSNR))
    mine, base = ({r.name: r.values[PSNR] for r in run.records} for run in (row.run, row.base))
    by_hand = np.array([mine[n] - base[n] for n in NAMES])
    other = bootstrap((by_hand,), np.mean, method="percentile", n_resamples=20_000, rng=1).confidence_interval
    assert entry["n"] == 5 and entry["mean"] == pytest.approx(by_hand.mean())
    assert entry["ci95"] == pytest.approx([other.low, other.high], abs=0.1 * by_hand.std())
    unpaired = np.hypot(*(np.std(list(v.values()), ddof=1) / 5**0.5 for v in (mine, base)))
    assert entry["ci95"][1] - entry["ci95"][0] < 1.96 * unpaired  # trajectories differ by far more than the policies on one


def test_a_trajectory_that_is_missing_is_no_pair(tmp_path):
    make_run(tmp_path, "full", quality=33.0)
    path = make_run(tmp_path, "worldkv", quality=32.0)
    (path / "trajectories" / f"{NAMES[0]}.json").unlink()
    runs, _ = groups.read_runs(tmp_path)
    row = next(r for r in text.rows(runs, shown(runs), "full") if r.run.label == "worldkv")
    assert row.differences[PSNR].endswith("(4)")


def test_what_is_not_comparable_is_said_and_not_compared(experiment):
    runs, _ = groups.read_runs(experiment)
    assert sorted(len(g) for g in groups.groups_of(runs)) == [1, 1, 1, 3]
    said = "\n".join(notes(runs, "full"))
    for expected in ("seed: 1 / 0", "metric psnr: version 2 / 1", "other noise", "2 devices"):
        assert expected in said
    rows = text.rows(runs, shown(runs), "full")
    alone = [r for r in rows if r.run.group and r.run.label != "full"]
    assert alone and all(r.differences[PSNR] == "-" and not r.best for r in alone)
    assert not any("cost/fps_mean" in r.best for r in rows)  # measured on two devices
    assert any(PSNR in r.best for r in rows)


def test_a_busy_machine_is_said_and_no_speed_is_best_there(experiment):
    runs, _ = groups.read_runs(experiment)
    runs = [r for r in max(groups.groups_of(runs), key=len) if r.about["device"] == DEVICE]
    assert any("cost/fps_mean" in row.best for row in text.rows(runs, shown(runs), "full"))
    busy = runs[0]
    busy.summary["cost/share_waited"] = {"mean": 0.21, "ci95": None, "n": 5}
    assert any(f"waited for a core: {busy.name} 21 %" in note for note in notes(runs, "full"))
    assert not any("cost/fps_mean" in row.best for row in text.rows(runs, shown(runs), "full"))


def test_every_format_says_the_same(experiment, capsys):
    table = printed(capsys, experiment, "--no-page")
    markdown = printed(capsys, experiment, "--no-page", "--format", "md")
    latex = printed(capsys, experiment, "--no-page", "--format", "latex")
    rows = list(csv.DictReader(io.StringIO(printed(capsys, experiment, "--no-page", "--format", "csv"))))
    found = json.loads(printed(capsys, experiment, "--no-page", "--format", "json"))
    worldkv = next(r for r in rows if r["run"].startswith("worldkv") and r["group"] == "0")
    mean = float(worldkv[f"{PSNR}/mean"])
    difference = float(worldkv[f"{PSNR}/difference/mean"])
    for said in (table, markdown, latex):
        assert f"{mean:.2f}" in said and f"{difference:+.2f}" in said and "not comparable" in said
    run = next(r for r in found["runs"] if r["id"] == worldkv["folder"])
    assert run["cells"][PSNR][0] == pytest.approx(mean, rel=1e-6)
    assert len(rows) == len(found["runs"]) == markdown.count("\n| ") - 1 == latex.count(r" \\") - 1
    assert not (experiment / "report").exists()


def test_another_baseline(experiment, capsys):
    table = printed(capsys, experiment, "--no-page", "--format", "md", "--baseline", "worldkv")
    assert "to worldkv" in table and "baseline" in table


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere is not a folder; give one that holds runs"),
        (["empty"], "has no finished runs; run harness/run.py name=empty"),
        (["mixed", "--baseline", "ful"], "no run is called 'ful'; use one of full, sliding, worldkv"),
    ],
)
def test_errors_are_one_line_with_a_remedy(experiment, monkeypatch, capsys, arguments, said):
    (experiment.parent / "empty").mkdir()
    monkeypatch.chdir(experiment.parent)
    with pytest.raises(SystemExit) as error:
        report.main(arguments)
    said_there = capsys.readouterr().err
    assert error.value.code == 1 and said in said_there and said_there.count("\n") == 1


def test_without_plotly_the_table_is_still_there(experiment, monkeypatch, capsys):
    for module in [m for m in sys.modules if m.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "harness.reporting.page", raising=False)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(SystemExit):
        report.main([str(experiment)])
    assert "pip install -e '.[report]'" in capsys.readouterr().err
    assert "worldkv" in printed(capsys, experiment, "--no-page")


def test_an_unfinished_run_is_named_and_left_out(experiment, capsys):
    path = make_run(experiment, "worldkv", quality=31.0, seed=5)
    (path / "results.json").unlink()
    found = json.loads(printed(capsys, experiment, "--no-page", "--format", "json"))
    assert found["unfinished"] == [path.name] and path.name not in [r["id"] for r in found["runs"]]


def test_the_folder_is_whole_relative_and_clean(tmp_path, capsys):
    """All that the page names is in the folder, by relative paths; a second report leaves nothing of the first behind."""
    pytest.importorskip("plotly")
    experiment = tmp_path / "e"
    make_run(experiment, "full", film=True, names=NAMES[:2])
    gone = make_run(experiment, "sliding", film=True, names=NAMES[:2])
    printed(capsys, experiment)
    shutil.rmtree(gone)
    printed(capsys, experiment, "--films", "1")
    folder = experiment / "report"
    text_of = (folder / "data.js").read_text()
    found = json.loads(text_of.removeprefix("const REPORT = ").rstrip().rstrip(";"))
    media = {f[k] for run in found["runs"] for f in run["films"] for k in ("video", "stills")}
    assert len(media) == 2 and media == {str(p.relative_to(folder)) for p in (folder / "media").rglob("*") if p.is_file()}
    assert str(tmp_path) not in text_of
    page = (folder / "index.html").read_text() + (folder / "report.css").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert (folder / "plotly.min.js").stat().st_size > 1_000_000


def test_the_trace_in_letters(tmp_path):
    """What was attended (A), retrieved (R), stored (S), unreachable (U), and the share of its rows."""
    for policy in ("full", "worldkv", "sliding"):
        make_run(tmp_path, policy)
    runs, _ = groups.read_runs(tmp_path)
    last = {r.label: (t := trace(r.records[0].chunks), t.states[-1])[1] for r in runs}
    assert last == {"full": "AAAAA", "worldkv": "ARSSA", "sliding": "AUUUA"}
    squeezed = trace(next(r for r in runs if r.label == "worldkv").records[0].chunks)
    assert [squeezed.levels[ord(c) - 48] for c in squeezed.shares[-1]] == [100, 50, 100, 100, 100]
    rows = next(r for r in runs if r.label == "worldkv").records[0].chunks
    long = trace([*rows[:-1], {k: v for k, v in rows[-1].items() if k not in ("stored", "unreachable")}])
    assert long.states[:-1] == trace(rows).states[:-1] and not long.shares, "chunks beyond the traced length leave the trace out"


def test_a_grid_has_its_axes(tmp_path):
    for retrieved in (3, 6):
        for ratio in (0.25, 0.5):
            make_run(tmp_path, "worldkv", quality=30 + ratio, settings={"retrieved": retrieved, "ratio": ratio})
    runs, unfinished = groups.read_runs(tmp_path)
    found = data.report("grid", runs, unfinished)
    assert found["swept"] == ["policy.ratio", "policy.retrieved"] and len({r["name"] for r in found["runs"]}) == 4


def test_quality_against_the_gap_by_hand(tmp_path):
    make_run(tmp_path, "full")
    runs, _ = groups.read_runs(tmp_path)
    curve = data._against(data._rows(runs[0], "pairs"), lambda pair: pair["gap_frames"], [PSNR])
    by_hand = [np.array([p["psnr_revisit"] for r in runs[0].records for p in r.pairs if p["gap_frames"] == gap]) for gap in curve["x"]]
    assert curve[PSNR] == pytest.approx([v.mean() for v in by_hand], rel=1e-6) and curve["n"] == [5] * 4
    assert curve["error/psnr_revisit"] == pytest.approx([2.7764451 * v.std(ddof=1) / 5**0.5 for v in by_hand], rel=1e-5), "t of 4 degrees of freedom"


def test_help_and_a_typo():
    command = [sys.executable, str(ROOT / "harness" / "report.py")]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert "outputs/NAME" in helped.stdout
    typo = subprocess.run([*command, "outputs/x", "--format", "mdd"], capture_output=True, text=True, timeout=60, check=False)
    assert typo.returncode == 2 and "choose from" in typo.stderr and "latex" in typo.stderr


def test_recall_against_gap_and_distance(tmp_path):
    """Of runs with probes: means over trajectories in each bin, by the scores that the probes have."""
    path = make_run(tmp_path / "e", "worldkv")
    folder = RunFolder(path)
    for i, record in enumerate(folder.records()):
        probes = [{"chunk": 9, "target": 1, "gap": gap, "metres": 0.5 * gap, "aside_metres": 0.7, "psnr_true": 20.0 + i - gap} for gap in (4, 8)]
        (path / "trajectories" / f"{record.name}.json").write_text(json.dumps(asdict(replace(record, probes=probes))))
    make_run(tmp_path / "e", "full")
    runs, unfinished = groups.read_runs(tmp_path / "e")
    by_label = {run["label"]: run for run in data.report("e", runs, unfinished)["runs"]}
    found = by_label["worldkv"]["recall_gap"]
    assert found["x"] == [4, 8] and found["n"] == [5, 5] and found["recall/psnr_true"] == [18.0, 14.0] and len(found["error/psnr_true"]) == 2
    assert by_label["worldkv"]["recall_far"]["x"] == [2, 4] and by_label["full"]["recall_gap"] == {}
