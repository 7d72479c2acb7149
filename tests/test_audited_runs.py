"""The audit in the main job and in the report: when a gain is memory."""

import pytest

from harness.evaluation.evaluate import evaluate
from harness.evaluation.probes import Probes
from harness.reporting.audit import audit_notes
from harness.reporting.groups import read_runs
from harness.results.identity import deciding
from harness.settings.command_line import composed
from metrics.column import ARMS
from metrics.frame import PSNR
from tests.conftest import CONF


def test_settings_are_checked():
    with pytest.raises(ValueError, match="names one twice"):
        Probes(8, (2, 4), audit=("none", "none"))
    with pytest.raises(ValueError, match="give probes.count=8 too"):
        Probes(0, audit=("none",))
    plain = deciding({"probes": {"count": 4, "audit": []}})
    assert plain == deciding({"probes": {"count": 4}}) and plain != deciding({"probes": {"count": 4, "audit": ["none"]}}), "runs of older versions are found"


def test_the_main_job_audits(tmp_path, monkeypatch, capsys):
    """Gains in results.json and the table, arms in probes.csv, what does not apply in a line; everything else is that of a run without an audit."""
    monkeypatch.chdir(tmp_path)
    tiny = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "progress=false", "logger=none", "videos=0", "world.trajectories=2", "probes.gaps=[4,8]"]

    def job(policy, *overrides):
        cfg, choices = composed(CONF, [*tiny, f"policy={policy}", "world.specs=[R180R90L60R60L90]", "probes.count=4", *overrides])
        return evaluate(cfg, choices, policy)

    arms = "probes.audit=[wrong,other,mean,none]"
    few = "policy.retrieved=3"  # so that the bank has as many pages that show nothing of the view
    plain, audited, full, bare = job("worldkv", few), job("worldkv", few, arms), job("full", arms), job("sink_recent", arms, "policy.recent=3")
    said = " ".join(capsys.readouterr().out.split())
    new = {f"audit/{k}{end}_{arm}" for k in ("psnr", "ssim") for end in ("", "_true") for arm in ARMS}
    assert {k for k in audited["summary"].keys() - plain["summary"].keys() if k.startswith("audit/")} == new
    same = {k: v for k, v in plain["summary"].items() if k.startswith(("quality/", "recall/"))}
    assert same == {k: v for k, v in audited["summary"].items() if k in same}
    assert audited["summary"]["audit/psnr_none"]["n"] == 2 and "unaudited" not in audited["run"]
    assert "audit/psnr_wrong" not in full["summary"] and "too few other pages" in full["run"]["unaudited"]["wrong"]
    assert set(bare["run"]["unaudited"]) == set(ARMS)
    assert "audit of full: other " in said and "wrong does not apply: the bank has too few other pages" in said
    table = next(p for p in tmp_path.rglob("probes.csv") if "psnr_wrong" in p.read_text()).read_text().splitlines()
    assert {"psnr_other", "psnr_true_none"} <= set(table[0].split(","))
    runs, _ = read_runs(tmp_path / "outputs" / "default")
    notes = audit_notes(runs)
    assert len(notes) == 4 and all("undecided, 2 trajectories" in n or "not compared" in n for n in notes[:-1])
    from harness.reporting.data import report

    data = report("e", runs, [])
    shown = next(r["audit"] for r in data["runs"] if r["label"] == "worldkv" and r["audit"])
    assert shown["x"] == ["right", *ARMS] and shown["n"] == [2] * 5 and len(shown["recall/psnr"]) == len(shown["error/psnr"]) == 5


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([2.0, 1.5, 3.0, 0.5, 2.2, 1.0, 1.8], "its gain is memory, the right pages beat other pages of the walk"),
        ([-2.0, -1.5, -3.0, -0.5, -2.2, -1.0, -1.8], "no memory is shown, the right pages do not beat"),
        ([2.0, -1.5, 1.0, -0.5, 0.2, -1.0, 0.8], "no memory is shown"),
        ([2.0, 1.5, 3.0, 0.5, 2.2], "undecided, 5 trajectories cannot show whether this is memory, 7 can"),
    ],
)
def test_a_gain_is_memory_where_right_pages_beat_wrong_ones(gains, verdict, tmp_path):
    notes = audit_notes([audited(tmp_path, gains)])
    assert len(notes) == 2 and verdict in notes[0] and f"wrong {sum(gains) / len(gains):+.2f}" in notes[0]


def test_a_gain_that_only_the_adjustment_hides_is_undecided(tmp_path):
    """6 trajectories, 5 dB on each of them: enough for one comparison, not for six."""
    runs = [audited(tmp_path, gains, f"run{i}") for i, gains in enumerate(([5.0, 5.1, 5.2, 5.3, 5.4, 5.5], *[[3.0, -3.0, 4.0, -4.0, 2.0, -2.0]] * 2))]
    clear, *noise = audit_notes(runs)
    assert "undecided, 6 trajectories cannot show whether this is memory, 8 can" in clear and "no memory" not in clear
    runs = [
        audited(tmp_path, gains, f"more{i}")
        for i, gains in enumerate(([3.0, 2.0, 4.0, 3.0, 2.0, -0.5, -0.5, 2.0], *[[3.0, -3.0, 4.0, -4.0, 2.0, -2.0, 3.0, -3.0]] * 2))
    ]
    assert "which show nothing of the view, but not significantly among 6 comparisons" in audit_notes(runs)[0]


def audited(experiment, gains, name="audited"):
    """A run whose audit gave these gains over wrong pages, and 1 dB more over none."""
    from dataclasses import asdict

    from harness.results.record import Record
    from harness.results.run_folder import RunFolder
    from metrics.recall import audit_columns
    from tests.made_runs import make_run

    path = make_run(experiment, "worldkv", names=tuple(f"t{i}" for i in range(len(gains))))
    about = RunFolder(path).results()["run"]
    folder = RunFolder(experiment / name)
    folder.create()
    for i, gain in enumerate(gains):
        folder.write(Record(f"t{i}", {"audit/psnr_wrong": gain, "audit/psnr_none": gain + 1}, noise="n"))
    folder.finish(about, [f"t{i}" for i in range(len(gains))], columns=[asdict(c) for c in audit_columns(PSNR())])
    return next(r for r in read_runs(experiment)[0] if r.path.name == name)
