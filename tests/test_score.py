"""Videos of other systems give run folders like any other; what is missing or wrong is a line."""

import json

import numpy as np
import pytest
from av.error import FFmpegError

from harness.reporting import command, groups
from harness.reporting.table import EXTERNAL
from harness.results.run_folder import RunFolder
from harness.scoring.command import main
from harness.worlds.films import read_film
from metrics.frame import PSNR
from tests.commands import ended
from tests.scored_videos import film, out_and_back, plain

SETTINGS = ["metric=tiny", "world.min_gap=6", "world.overlap=0.5", "videos=1"]


@pytest.fixture(scope="module")
def views():
    return out_and_back()


@pytest.fixture
def scored(tmp_path, views, monkeypatch):
    """Two systems' videos of the same paths, scored into one experiment."""
    monkeypatch.chdir(tmp_path)
    plain(tmp_path, views)
    (tmp_path / "forgets" / "cost.json").write_text(
        json.dumps({"device": "H100", "stored_bytes": 2e9, "clips": {"hall": {"seconds": 2.0}, "客厅": {"fps": 8.0}}})
    )
    for system in ("remembers", "forgets"):
        main([system, *SETTINGS, "name=e"])
    return tmp_path


def test_a_folder_of_videos_gives_a_run_like_any_other(scored, views, capsys):
    runs, unfinished = groups.read_runs(scored / "outputs" / "e")
    assert not unfinished and sorted(r.name for r in runs) == ["forgets", "remembers"]
    good, bad = (next(r for r in runs if r.label == n) for n in ("remembers", "forgets"))
    assert good.group == bad.group, "the same paths: compared with one another"
    assert good.summary["quality/psnr_revisit"]["mean"] > bad.summary["quality/psnr_revisit"]["mean"] + 8
    assert good.summary["quality/psnr_reference"]["mean"] > 30 and good.summary["quality/psnr_floor"]["mean"] < 25
    assert {"quality/ssim_revisit", "pairs", "quality/contrast"} <= good.summary.keys()
    assert "cost/fps_mean" not in good.summary and good.about["external"] == EXTERNAL and good.about["device"] == EXTERNAL
    folder = RunFolder(good.path)
    assert {p.name for p in folder.path.iterdir()} >= {"config.yaml", "results.json", "pairs.csv", "trajectories.jsonl", "frames.png", "videos"}
    made = read_film(scored / "remembers" / "hall.mp4").frames
    record = next(r for r in folder.records() if r.name == "hall")
    for pair in record.pairs:
        expected = PSNR().score(made[[int(pair["first"])]], made[[int(pair["revisit"])]]).item()
        assert pair["psnr_revisit"] == pytest.approx(expected, abs=1e-4)
    assert all(p["revisit"] > p["first"] and p["gap_degrees"] < 0.1 for p in record.pairs) and len(record.pairs) >= 4
    values = RunFolder(bad.path).values()
    assert values["hall"]["cost/fps_mean"] == len(made) / 2 and values["客厅"]["cost/fps_mean"] == 8 and values["hall"]["cost/stored_bytes"] == 2e9
    assert "cost.json" in bad.about["external"] and "H100" in bad.about["device"]
    capsys.readouterr()
    main(["forgets", *SETTINGS, "name=e"])
    assert "hall: " not in capsys.readouterr().out, "what is scored is not scored again"
    (scored / "forgets" / "cost.json").unlink()
    main(["forgets", *SETTINGS, "name=e"])
    assert "cost/fps_mean" not in RunFolder(bad.path).values()["hall"], "a file that is gone tells nothing any more"
    assert RunFolder(bad.path).results()["run"]["external"] == EXTERNAL


def test_tables_and_the_report_show_external_videos_beside_our_runs(scored, capsys, monkeypatch):
    from tests.made_runs import make_run

    make_run(scored / "outputs" / "e", "full", film=True)
    for form in ("table", "md", "latex", "csv"):
        command.main([str(scored / "outputs" / "e"), "--no-page", "--format", form])
        said = capsys.readouterr().out
        assert "remembers" in said and "full" in said
        assert form == "csv" or EXTERNAL in said, form
    command.main([str(scored / "outputs" / "e")])
    shown = json.loads((scored / "outputs" / "e" / "report" / "data.js").read_text().removeprefix("const REPORT = ").rstrip(";\n"))
    mine = next(r for r in shown["runs"] if r["label"] == "remembers")
    assert mine["about"].startswith(EXTERNAL) and "psnr_revisit" in json.dumps(mine["cells"])
    assert mine["films"][0]["video"] and (scored / "outputs" / "e" / "report" / mine["films"][0]["video"]).exists()


def test_missing_videos_are_named_and_the_others_scored(tmp_path, views, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plain(tmp_path, views, ("remembers",))
    (tmp_path / "remembers" / "lost").mkdir()
    np.save(tmp_path / "remembers" / "lost" / "poses.npy", views[0].numpy())
    with pytest.raises(SystemExit, match="1 of 3 videos were not scored"):
        main(["remembers", *SETTINGS, "run_dir=r"])
    said = capsys.readouterr().out
    assert "1 of 3 videos are missing: lost" in said and "lost: failed: lost: its video is missing" in said
    assert json.loads((tmp_path / "r" / "results.json").read_text())["run"]["trajectories"] == 2


def test_a_film_that_cannot_be_written_costs_no_score(tmp_path, views, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    plain(tmp_path, views, ("remembers",))

    def broken(*args, **kwargs):
        raise FFmpegError(1, "no libx264 here")

    monkeypatch.setattr("harness.reporting.media.save_video", broken)
    main(["remembers", *SETTINGS, "run_dir=r", "videos=2"])
    assert json.loads((tmp_path / "r" / "results.json").read_text())["run"]["trajectories"] == 2
    assert "a video was not written" in caplog.text and "no libx264 here" in caplog.text


def test_a_system_that_never_comes_back_has_no_result(tmp_path, views, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "in" / "a.mp4", views[1][:8])
    np.save(tmp_path / "in" / "a_poses.npy", views[0][:8].numpy())
    with pytest.raises(SystemExit, match="no revisit pairs in a, so nothing was scored"):
        main(["in", *SETTINGS, "run_dir=r"])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", "is no JSON of costs"),
        ('{"speed": 3}', "unknown speed; use device, clips, seconds, fps"),
        ('{"fps": 0}', "above 0"),
        ('{"clips": {"x": {"fps": 1}}}', "no video x"),
    ],
)
def test_a_cost_file_is_checked(tmp_path, said, message):
    from harness.scoring.cost_file import read_costs

    (tmp_path / "cost.json").write_text(said)
    with pytest.raises(ValueError, match=message):
        read_costs(tmp_path, ["hall"])


def test_a_videos_own_time_goes_before_the_speed_of_all(tmp_path):
    from harness.scoring.cost_file import read_costs

    (tmp_path / "cost.json").write_text('{"fps": 16.2, "seconds": 5, "clips": {"hall": {"seconds": 12.0}, "attic": {"fps": 3}}}')
    costs = read_costs(tmp_path, ["hall", "attic", "cellar"])
    assert [costs.of(name, 120)["cost/fps_mean"] for name in ("hall", "attic", "cellar")] == [10.0, 3.0, 16.2]


def test_a_folder_that_one_stands_in_can_be_the_run(tmp_path, views, monkeypatch):
    plain(tmp_path, views, ("remembers",))
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    main([str(tmp_path / "remembers"), *SETTINGS, "run_dir=."])
    assert RunFolder(tmp_path / "run").results()["run"]["trajectories"] == 2


def test_the_script_and_its_mistakes(tmp_path, views):
    def script(*arguments, code):
        status, said = ended("score.py", *arguments, cwd=tmp_path)
        assert status == code and "Traceback" not in said, said
        return said

    plain(tmp_path, views, ("remembers",))
    (tmp_path / "remembers").rename(tmp_path / "a=b (1)")
    assert "results: outputs/default/RELIC-" in script("a=b (1)", *SETTINGS, "system=RELIC", code=0)
    assert "python harness/score.py FOLDER" in script("--help", code=0) and "python harness/score.py FOLDER" in script(code=2)
    assert "Did you mean: world.truth" in script("a=b (1)", "world.trut=x", code=1)
    assert "error: world.folder=nowhere is no folder" in script("nowhere", code=1)
