"""The picture of recall against the gap."""

from math import isnan

import imageio.v3 as iio
import pytest

from harness.reporting.recall_plot import recall_plot
from harness.results.recall import binned, recall_curves


def test_probes_are_pooled_by_powers_of_two_and_trajectories():
    """By hand: two trajectories, gaps 4 and 6 in one point; a trajectory's probes are averaged before trajectories are."""
    probes = [
        [{"gap": 4, "psnr": 20.0}, {"gap": 6, "psnr": 24.0}, {"gap": 9, "psnr": 10.0}],
        [{"gap": 5, "psnr": 28.0}, {"gap": 33, "psnr": 5.0, "ssim": 0.1}],
        [],
    ]
    found = binned(probes, "psnr")
    assert list(found) == [4, 8, 32]
    assert found[4] == (25.0, pytest.approx(12.706 * 18**0.5 / 2**0.5, rel=1e-4), 2), "a t interval of two values"
    assert all(found[gap][0] == mean and isnan(found[gap][1]) and found[gap][2] == 1 for gap, mean in ((8, 10.0), (32, 5.0))), "no bar, which would look sure"


def test_curves_go_by_gap_and_by_distance():
    """As results.json has them: a distance below a metre is a point of its own; an audit's replacements are no curve."""
    probes = [[{"gap": 4, "metres": 0.2, "psnr": 20.0, "psnr_wrong": 9.0}], [{"gap": 5, "metres": 3.9, "psnr": 24.0}, {"gap": 4, "metres": 0.9, "psnr": 22.0}]]
    curves = recall_curves(probes)
    assert list(curves) == ["recall/psnr"]
    assert [(p["from"], p["mean"], p["n"]) for p in curves["recall/psnr"]["gap"]] == [(4, 21.5, 2)]
    near, far = curves["recall/psnr"]["metres"]
    assert (near["from"], near["mean"], near["n"]) == (0, 21.0, 2) and near["ci95"][0] < 21 < near["ci95"][1]
    assert far == {"from": 2, "mean": 24.0, "ci95": None, "n": 1}
    assert recall_curves([[], []]) == {}


def test_a_picture_where_there_are_probes(tmp_path):
    some = {"full": [[{"gap": 4, "psnr_true": 20.0}, {"gap": 8, "psnr_true": 24.0}]], "none of them": [[]]}
    assert recall_plot(tmp_path / "recall.png", some, "t") and iio.imread(tmp_path / "recall.png").std() > 5
    assert not recall_plot(tmp_path / "no.png", {"full": [[]]}, "t") and not (tmp_path / "no.png").exists()
