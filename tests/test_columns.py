"""One description of a column, beside its metric: an added metric is in every view, and what is printed fits where it is printed."""

import csv
import io
import json
from dataclasses import asdict

import pytest
import torch
from rich.console import Console

from harness.reporting import command, data, groups
from harness.reporting.columns import columns_of, leading
from harness.reporting.curves import over_rollout, shared_chunks
from harness.reporting.doctables import results_table
from harness.reporting.table import finished_runs, headline
from harness.results.run_folder import RunFolder
from harness.settings.command_line import CONF, composed
from harness.sweeping.display import Board
from harness.system.files import unsummed
from harness.tracking import workspace
from harness.tracking.wandb_run import pair_table
from metrics.frame import PSNR, FrameMetric
from metrics.metric_set import MetricSet
from metrics.rollout import RolloutMetric
from tests.made_runs import make_run

SETTINGS = ["policy=worldkv", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0", "threads=1", "progress=false"]
KEY = "quality/shade_revisit"


class Shade(FrameMetric):
    """A user's metric: how much darker one of two images is."""

    name, version, higher_is_better = "shade", "1", False
    heading, unit, decimals, rank = "Shade", "%", 1, 1

    def score(self, a, b):
        return 100 * (a.mean((1, 2, 3)) - b.mean((1, 2, 3))).abs()


class Pace(RolloutMetric):
    """A user's metric of whole rollouts, as FVD would be: the distance of mean motions of generated and true videos."""

    name, version, higher_is_better = "pace", "1", False
    decimals = 3

    def features(self, rollout, trajectory):
        motion = [x.diff(dim=0).abs().mean((1, 2, 3)) for x in (rollout.frames, trajectory.reference[: len(rollout.frames)])]
        return {"made": motion[0], "true": motion[1]}

    def compute(self, features):
        return (features["made"].mean() - features["true"].mean()).abs().item()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """A run with both metrics, each one line of YAML, that was stopped after one of its two trajectories and went on."""
    from harness.evaluation.evaluate import evaluate

    path = tmp_path_factory.mktemp("columns") / "e" / "run"
    added = ["plugins=[tests]"] + [f"+metric.{n.lower()}._target_=tests.test_columns.{n}" for n in ("Shade", "Pace")]
    cfg, choices = composed(CONF, [*SETTINGS, *added, f"run_dir={path}"])
    whole = evaluate(cfg, choices, "worldkv", compare=False)
    record = path / "trajectories"
    last = sorted(record.glob("*.json"))[-1]
    for gone in (last, last.with_suffix(".npz"), path / "results.json"):
        gone.unlink()
    at = {p: p.stat().st_mtime_ns for p in record.glob("*.npz")}
    assert len(at) == 1
    resumed = evaluate(cfg, choices, "worldkv", compare=False)
    assert all(p.stat().st_mtime_ns == before for p, before in at.items()), "features of finished trajectories are kept"
    return path, whole, resumed


def test_a_metric_of_whole_rollouts_is_one_file_and_one_line(evaluated):
    path, whole, resumed = evaluated
    entry = resumed["summary"]["quality/pace"]
    assert entry == whole["summary"]["quality/pace"] and entry["n"] == 2 and entry["mean"] > 0
    kept = RunFolder(path).features([r.name for r in RunFolder(path).records()])
    assert entry["mean"] == pytest.approx(abs(kept["pace"]["made"].mean() - kept["pace"]["true"].mean()), rel=1e-5)
    assert resumed["run"]["metrics"] | {"shade": "1", "pace": "1"} == resumed["run"]["metrics"]


def test_trajectories_without_features_are_no_part_of_a_value(evaluated, tmp_path):
    from harness.evaluation.evaluate import _of_run

    path, *_ = evaluated
    folder = RunFolder(tmp_path)
    folder.create()
    for file in (path / "trajectories").glob("*.json"):
        (tmp_path / "trajectories" / file.name).write_bytes(file.read_bytes())
    names = [r.name for r in folder.records()]
    with pytest.raises(ValueError, match="pace: 2 of 2 trajectories .* overwrite=true runs them again"):
        _of_run(folder, MetricSet.of([Pace()]), names)
    assert _of_run(folder, MetricSet.of([Pace()]), []) == {}, "of trajectories that have left the world nothing counts"
    with pytest.raises(ValueError, match="int is neither a FrameMetric"):
        MetricSet.of([PSNR(), 3])
    with pytest.raises(ValueError, match="psnr is there twice"):
        MetricSet.of([PSNR(), PSNR()])


def test_an_added_metric_is_in_every_view(evaluated, capsys, monkeypatch):
    path, _, results = evaluated
    mean = f"{results['summary'][KEY]['mean']:.1f}"
    (column,) = [c for c in columns_of([results]) if c.key == KEY]
    assert (column.title, column.better, column.decimals) == ("Shade revisit (%)", -1, 1)
    for form in ("table", "md", "latex", "csv", "json"):
        command.main([str(path.parent), "--no-page", "--format", form])
        said = capsys.readouterr().out
        assert KEY in said if form in ("csv", "json") else "Shade" in said and mean in said, form
        if form == "csv":
            assert float(next(csv.DictReader(io.StringIO(said)))[f"{KEY}/mean"]) == results["summary"][KEY]["mean"]
        if form == "json":
            (run,) = json.loads(said)["runs"]
            assert run["cells"][KEY][0] == pytest.approx(results["summary"][KEY]["mean"], rel=1e-6) and KEY in run["gap"]
    assert f"Shade revisit (%) {mean}" in headline("x", finished_runs(path.parent)[0].results)
    table = {"trajectories": 2, "world": "rooms_tiny", "protocol": "guided", "seed": 0, "device": "d", "columns": results["columns"]}
    assert "Shade revisit | " in results_table("x", table | {"runs": {"worldkv": {"summary": results["summary"], "difference": {}}}}, str)
    pairs = pair_table(RunFolder(path), columns_of([results]))
    assert pairs is not None and "Shade revisit (%)" in pairs.columns
    (path.parent / "outputs").mkdir(exist_ok=True)
    monkeypatch.chdir(path.parent)
    (path.parent / "outputs" / "e").symlink_to(path.parent)
    assert KEY in [c.key for c in workspace.columns("e")]
    assert any(p.title.startswith("Shade revisit against") for p in workspace.sections(("policy", "seed"), workspace.columns("e"))["Quality against cost"])


def test_an_added_metric_is_in_a_sweeps_table(evaluated):
    _, _, results = evaluated

    class Done:
        parameters = {"policy": "worldkv"}

        def results(self):
            return results

    board = Board("s", "quality/psnr_revisit", 1, 1, 0)
    board.console = Console(width=100, record=True, file=io.StringIO())
    summary = results["summary"] | {"quality/psnr_revisit": {"mean": 30.5, "ci95": [28.25, 33.0], "n": 4}}
    board.console.print(board.table({Done(): summary}, 8))
    shown = board.console.export_text()
    assert "Shade" in shown and "30.50 [28.25, 33.00]" in shown, "what points are ranked by has its interval"


def _chunks(start, end, given):
    return [
        {"start": 3 * i, "forced": i < given, "frames_px": 3, "seconds_passes": 1.0, "stored_bytes": 10.0 * i + end, "attended_rows": 1}
        for i in range(start, end)
    ]


def test_curves_keep_their_population():
    """One of four trajectories is longer than the others and has more bytes: the curve ends where the others do."""
    short, long = _chunks(0, 6, 2), _chunks(0, 12, 2)
    n, curves = over_rollout([short, short, short, long])
    assert n == 4 and curves["frame"] == [6, 9, 12, 15]
    assert curves["cost/stored_bytes"] == [10 * i + 6 for i in (2, 3, 4, 5)]
    n, rows = shared_chunks([_chunks(0, 8, 6), _chunks(0, 20, 10), _chunks(0, 20, 10)])
    assert n == 2 and list(rows) == [30 + 3 * i for i in range(10)], "where nothing is shared by all, the set with most rows"
    assert shared_chunks([]) == (0, {})


def test_an_older_folder_is_completed_as_it_is_read(tmp_path):
    """Sums that were not written, columns that were not described, and a metric that nobody knows any more."""
    path = make_run(tmp_path / "e", "worldkv")
    sums = ("cost/bank_bytes", "cost/stored_bytes", "frames")
    results = unsummed(json.loads((path / "results.json").read_text()))
    results.pop("columns")
    results["summary"] = {k: v for k, v in results["summary"].items() if k not in sums} | {"quality/odd_revisit": {"mean": 1.0, "ci95": [1, 1], "n": 5}}
    (path / "results.json").write_text(json.dumps(results))
    for file in (path / "trajectories").glob("*.json"):
        record = unsummed(json.loads(file.read_text()))
        record["values"] = {k: v for k, v in record["values"].items() if k not in sums}
        record["chunks"] = [{k: v for k, v in row.items() if k not in ("bank_bytes", "stored_bytes", "frames_px")} for row in record["chunks"]]
        file.write_text(json.dumps(record))
    runs, unfinished = groups.read_runs(tmp_path / "e")
    found = data.report("e", runs, unfinished)
    cells = found["runs"][0]["cells"]
    assert (
        cells["cost/bank_bytes"][0] == pytest.approx(0.5 * 1.02e6) and cells["cost/stored_bytes"][0] == pytest.approx(1.5 * 1.02e6) and cells["frames"][0] == 18
    )
    assert [c["better"] for c in found["columns"] if c["key"] == "quality/odd_revisit"] == [0]
    assert found["runs"][0]["rollout"]["cost/stored_bytes"]


def test_what_is_known_of_a_column_survives_the_file(evaluated):
    path, _, results = evaluated
    assert [asdict(c) for c in columns_of([results])] == [c for c in results["columns"] if c["key"] in results["summary"]]
    assert leading(columns_of([results])).name == "psnr" and torch.is_tensor(Shade().score(torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)))
