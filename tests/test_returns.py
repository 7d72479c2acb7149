"""Revisits of paths that never repeat exactly: found within tolerances, or the nearest miss is said; a run without any has no result."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from harness.evaluation.runner import unscored
from harness.reporting import groups, terminal, text
from harness.results.run_folder import without_result
from harness.results.statistics import interval, paired, summarise
from harness.settings.command_line import CONF, composed
from harness.worlds.frusta import FrustumOverlap
from harness.worlds.poses import integrate, pinhole, rotation
from harness.worlds.recorded import RecordedWorld
from harness.worlds.revisits import Tolerance, find_pairs, outbound, trembling_outbound
from harness.worlds.scripted import PRESETS, pad, parse
from tests.conftest import make_world
from tests.made_runs import make_run
from tests.test_run import run
from tests.test_scenes import images, make, recorded  # noqa: F401  (images is a fixture)

HAND = Tolerance(9, 0.3, 0.05, 2.0, recorded=True)


def trembled(c2w, metres=0.004, degrees=0.3, seed=0):
    """The same path by a hand that trembles: every pose off by about so much."""
    g = torch.Generator().manual_seed(seed)
    off = torch.eye(4).repeat(len(c2w), 1, 1)
    off[:, :3, :3] = rotation(degrees * torch.randn(len(c2w), generator=g), degrees * torch.randn(len(c2w), generator=g))
    off[:, :3, 3] = metres * torch.randn(len(c2w), 3, generator=g)
    return c2w @ off


@pytest.mark.parametrize("spec", sorted(PRESETS))
def test_a_trembling_path_has_the_pairs_of_the_steady_one(spec):
    steady = integrate(parse(spec), 0.12)
    exact = find_pairs(steady, 80.0, overlap=0.3)  # 60 degrees would sit on the edge of 0.25
    assert not find_pairs(trembled(steady), 80.0), "none of its poses repeats"
    found = HAND.returns(trembled(steady), 80.0)
    again = {p.revisit: p for p in found.pairs}
    assert {p.revisit for p in exact} <= again.keys() and not found.miss
    for p in exact:
        mine = again[p.revisit]
        gap = (steady[mine.first, :3, 3] - steady[p.first, :3, 3]).norm()
        assert gap <= 0.05 and 0 < mine.gap_degrees <= 2.0 and 0 < mine.gap_metres <= 0.05
    near = HAND.returns(steady, 80.0).pairs
    assert all(p in near for p in exact), "an exact path keeps its pairs, each with the nearest view of the first visit"


@pytest.mark.parametrize("spec", ["R_L90", "out_back", "walk_turn", "WR_LS90", "staggered_far", "R180L180", "full_loop"])
@pytest.mark.parametrize("seed", range(4))
def test_trembling_does_not_move_the_outbound_leg(spec, seed):
    steady = integrate(pad(parse(spec), 3), 0.12)
    assert trembling_outbound(steady, 0.05, 2.0) == outbound(steady)
    assert trembling_outbound(trembled(steady, seed=seed), 0.05, 2.0) == outbound(steady)
    assert outbound(trembled(steady, seed=seed)) == len(steady), "without tolerance it never comes back"
    standing = trembled(torch.eye(4).repeat(30, 1, 1), seed=seed)
    assert trembling_outbound(standing, 0.05, 2.0) == 30, "standing is no way out"


def test_the_outbound_leg_of_a_slow_camera_and_of_a_loop():
    slow = integrate(parse("R_L90", 1.0, 6, 12), 0.1)
    for seed in range(3):
        assert abs(trembling_outbound(trembled(slow, seed=seed), 0.05, 2.0) - outbound(slow)) <= 3, "within what the tolerance is in frames"
    loop = integrate(parse("R360L90", 2.0, 6, 3), 0.1)
    assert abs(trembling_outbound(trembled(loop), 0.05, 2.0) - outbound(loop)) <= 2, "around, not halfway"


def test_walking_leaves_a_view_where_the_picture_changes():
    there_and_back = integrate(parse("W_S", move_frames=8), 0.25)
    assert not find_pairs(there_and_back, 80.0), "turns alone"
    found = HAND.reaching(2.0).returns(there_and_back, 80.0)
    assert {(p.first, p.revisit) for p in found.pairs} >= {(0, 19)}
    sideways = integrate(parse("D_A", move_frames=8), 0.25)
    assert HAND.reaching(2.0).returns(sideways, 80.0).pairs
    far = Tolerance(9, 0.25, 0.05, 2.0, depth=40.0, recorded=True).returns(sideways, 80.0)
    assert not far.pairs and "no view is left and seen again" in far.miss, "two metres aside change no view of mountains"
    standing = trembled(torch.eye(4).repeat(40, 1, 1))
    assert not HAND.reaching(0.03).returns(standing, 80.0).pairs, "trembling is no walk"


def test_overlap_of_frusta_against_known_answers():
    c2w = integrate(parse("R180", 10.0), 0.0)
    views = FrustumOverlap(c2w, 80.0, 1.0, 4.0)
    share = views(range(len(c2w)), range(len(c2w)))
    assert torch.equal(share.diagonal(), torch.ones(len(c2w))) and torch.allclose(share, share.T)
    assert share[0, 8:].max() == 0 and 0.7 < share[0, 1] < 0.9
    ahead = torch.eye(4).repeat(5, 1, 1)
    ahead[:, 2, 3] = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0])
    along = FrustumOverlap(ahead, 80.0, 1.0, 4.0)([0], range(5))[0]
    assert along[0] == 1 and along[4] == 0 and (along.diff() <= 0).all()


def test_the_nearest_miss_is_said():
    back = integrate(parse("R_L90", 15.0), 0.1)
    off = back.clone()
    off[10:, :3, :3] = rotation(torch.tensor(2.4), torch.tensor(0.0)) @ back[10:, :3, :3]
    miss = HAND.returns(off, 80.0).miss
    assert "nearest miss 2.4 degrees and 0 metres at frames " in miss and "see world.degrees_tolerance (2)" in miss
    off = back.clone()
    off[10:, 0, 3] += 0.08
    assert "nearest miss 0 degrees and 0.08 metres" in (miss := HAND.returns(off, 80.0).miss) and "world.metres_tolerance (0.05)" in miss
    assert "0.0 metres" not in miss
    assert "the path has 5 video frames" in HAND.returns(back[:5], 80.0).miss
    little = Tolerance(9, 0.25).returns(integrate(parse("R_L45", 5.0), 0.0), 90.0).miss
    assert "turns by 45 degrees" in little and "67.5 degrees leave a view of 90 (world.overlap=0.25)" in little
    walk = Tolerance(9, 0.25).returns(integrate(parse("W_S", move_frames=8), 0.1), 90.0).miss
    assert "walks 0.8 metres" in walk and "world.depth=METRES counts walks" in walk
    away = HAND.returns(integrate(parse("R80", 10.0, 6, 3), 0.1), 80.0).miss
    assert away
    for metres, degrees in ((0.0, 1.0), (1.0, -1.0)):
        with pytest.raises(ValueError, match="metres_tolerance=.*degrees_tolerance=.*above 0"):
            Tolerance(9, 0.25, metres, degrees)
    with pytest.raises(ValueError, match="world.depth=0"):
        Tolerance(9, 0.25, depth=0)


def test_worlds_say_why_there_are_no_pairs():
    none = make_world(["R_L30"]).trajectory(0)
    assert not none.pairs and "no view is left and seen again" in none.no_pairs
    assert make_world(["R_L90"]).trajectory(0).no_pairs == ""
    t = make_world(["R_L90"]).trajectory(0)
    assert "revisits 0 come after" in unscored(t, len(t.c2w)) and f"revisits {len(t.pairs)} come after the 3 frames" in unscored(t, 3)


@pytest.fixture
def folder(tmp_path):
    """A trembling path out and back with a picture."""
    c2w = trembled(integrate(parse("R_L90", 15.0), 0.1), 0.002, 0.2)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "poses.npy", c2w.numpy())
    np.save(tmp_path / "in" / "intrinsics.npy", pinhole(80.0, (480, 832), 1).numpy())
    iio.imwrite(tmp_path / "in" / "start.png", np.full((48, 83, 3), 128, np.uint8))
    return tmp_path


RECORDED = [
    "backbone=rooms_tiny",
    "policy=sliding",
    "world=recorded",
    "world.folder=in",
    "world.size=[16,24]",
    "metric=tiny",
    "logger=none",
    "progress=false",
    "videos=0",
    "threads=1",
]


def test_a_run_without_pairs_says_so_and_is_no_success(folder):
    tight = ["world.degrees_tolerance=0.001", "run_dir=r"]
    for said in (run(*RECORDED, *tight, cwd=folder, code=1), run(*RECORDED, *tight, cwd=folder, code=1)):
        assert "in: no revisit pairs: nearest miss" in said and "see world.degrees_tolerance (0.001)" in said
        assert "error: no revisit pairs in in, so nothing was scored" in said
    assert "finished before" in said
    said = run("-m", *RECORDED, "world.degrees_tolerance=2,0.001", "name=2025", cwd=folder, code=1)
    assert "1 of 2 runs are finished: outputs/2025" in said and "world.degrees_tolerance=0.001 name='2025': no revisit pairs in in" in said
    assert "1 trajectories with" in said and "revisit pairs of recorded" in said


def test_gaps_stand_beside_the_scores(folder, monkeypatch):
    from harness.evaluation.evaluate import evaluate

    monkeypatch.chdir(folder)
    cfg, choices = composed(CONF, [*RECORDED, "name=e"])
    results = evaluate(cfg, choices, "sliding", compare=False)
    summary = results["summary"]
    assert summary["pairs"]["mean"] >= 3 and 0 < summary["gap/degrees"]["mean"] < 2 and 0 < summary["gap/metres"]["mean"] < 0.05
    assert summary["quality/psnr_revisit"]["ci95"] is None, "one trajectory has no interval"
    runs, _ = groups.read_runs(folder / "outputs" / "e")
    for form in (text.markdown, text.comma_separated, text.latex):
        said = form(runs, "full")
        assert "gap" in said and "pairs" in said and "nan" not in said
    from rich.console import Console

    out = Console(width=150, record=True)
    out.print(terminal.terminal("e", runs, "full", 150))
    assert "gap" in out.export_text()
    assert "no_pairs" not in json.loads(next((folder / "outputs").rglob("trajectories/*.json")).read_text())


def test_exact_paths_show_no_gap_and_none_is_an_interval():
    from metrics.revisit import mean_gaps

    row = {"gap_metres": 1e-7, "gap_degrees": 0.0}
    assert mean_gaps([row]) == {} and mean_gaps([]) == {}
    assert mean_gaps([row, row | {"gap_degrees": 0.4}]) == {"gap/metres": 1e-7, "gap/degrees": 0.2}
    assert interval([3.0]) == {"mean": 3.0, "ci95": None, "n": 1}
    assert summarise([{"x": 1.0}])["x"]["ci95"] is None and paired({"a": {"x": 2.0}}, {"a": {"x": 1.0}}, "x")["ci95"] is None


def test_one_trajectory_is_shown_without_an_interval(tmp_path):
    for policy in ("full", "sliding"):
        make_run(tmp_path, policy, names=("only",))
    runs, _ = groups.read_runs(tmp_path)
    said = text.markdown(runs, "full")
    assert "[" not in said and "baseline" in said
    assert all("ci95" in e and e["ci95"] is None for r in runs for e in r.summary.values())
    terminal.comparison(tmp_path, runs[0].path, 140)


def test_guided_without_true_views_is_refused(folder):
    settings = dict(size=(16, 24), protocol="guided", lead_in=2, intrinsics_size=(480, 832), fps=16.0, min_gap=6, overlap=0.5, chunk_px=3)
    with pytest.raises(ValueError, match="world.protocol=guided gives true views .* has no frames.npy; add it, or use free"):
        RecordedWorld(str(folder / "in"), **settings)
    np.save(folder / "in" / "frames.npy", np.zeros((16, 16, 24, 3), np.uint8))
    assert RecordedWorld(str(folder / "in"), **settings).trajectory(0).given == 12, "trembling does not move it"


def test_scenes_find_recorded_returns_and_say_what_strings_miss(images):  # noqa: F811
    recorded(images / "paths" / "walk")
    c2w = trembled(torch.from_numpy(np.load(images / "paths" / "walk" / "poses.npy")), 0.002, 0.2)
    np.save(images / "paths" / "walk" / "poses.npy", c2w.numpy())
    t = make(images, [str(images / "paths" / "walk")]).trajectory(0)
    assert t.pairs and max(p.gap_degrees for p in t.pairs) > 0.05
    walks = make(images, ["W_S", "R_L40"], move_frames=12)
    assert walks.trajectory(0).pairs and walks.trajectory(0).no_pairs == "", "there and back without a turn"
    assert not walks.trajectory(1).pairs and "no view is left" in walks.trajectory(1).no_pairs
    far = make(images, ["W_S"], move_frames=12, depth=100.0).trajectory(0)
    assert not far.pairs and "no view is left" in far.no_pairs, "where all that is seen is far away"
    assert make(images, ["R_L_W_S_R_L90"]).trajectory(0).pairs == make(images, ["R_L_W_S_R_L90"], depth=1e6).trajectory(0).pairs, "turns count as ever"


def test_a_run_that_stops_for_a_snapshot_or_probes_needs_no_pairs():
    about = {"trajectories": 1, "no_pairs": {"a": "why"}, "config": {"snapshot": {"save": None, "chunks": None}}}
    assert "no revisit pairs in a" in without_result({"run": about, "summary": {}})
    assert "any of 2" in without_result({"run": about | {"trajectories": 2, "no_pairs": {"a": "why", "b": "why"}}, "summary": {}})
    assert not without_result({"run": about | {"trajectories": 2}, "summary": {}}), "another one has some"
    assert not without_result({"run": about, "summary": {"recall/psnr": {}}})
    assert not without_result({"run": about | {"config": {"snapshot": {"chunks": 3}}}, "summary": {}})
