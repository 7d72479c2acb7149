"""Novel views and returns are told apart by true co-visibility, and scored against the truth; what memory is worth is arithmetic."""

from dataclasses import replace

import pytest
import torch

from harness.cache.stores import GpuStore
from harness.evaluation.novelty import kinds
from harness.rollout import rollout
from metrics.frame import LPIPS, PSNR
from metrics.novelty import score_kinds
from metrics.retention import retention
from tests.conftest import make_policy, make_world


def test_a_view_is_novel_until_it_was_left(backbone):
    """A turn out and back: the way out is new, the way back is not; of single poses, by the true overlap of middle views."""
    path = make_world(["R90L90R60L60"], hold_frames=3, degrees=10.0).trajectory(0)
    found = kinds(path, backbone.geometry)
    assert sorted(found["novel"] + found["returned"]) == list(range(33))
    middles = list(range(1, 33, 3))
    shares = path.overlap(middles, middles)
    for chunk in range(11):
        sees = [float(shares[chunk, j]) >= 0.5 for j in range(chunk)]
        left = any(sees[j] and not all(sees[j:]) for j in range(chunk))
        assert (3 * chunk in found["returned"]) == left
    assert 0 in found["novel"] and 32 in found["returned"] and found["novel"][:6] == list(range(6))
    assert kinds(replace(path, overlap=None), backbone.geometry) == {} == kinds(replace(path, reference=None), backbone.geometry)


def test_kinds_are_scored_apart_against_the_truth(backbone):
    path = make_world(["R90L90R60L60"], hold_frames=3, degrees=10.0).trajectory(0)
    out = rollout(backbone, make_policy("worldkv"), GpuStore(), path, 0, backbone.encode(path.images)[:3])
    values = score_kinds(out, path, kinds(path, backbone.geometry), [PSNR()])
    frames = {k: [f for f in v if f >= 3] for k, v in kinds(path, backbone.geometry).items()}
    for kind, at in frames.items():
        error = (out.frames[at] - path.reference[at]).square().mean((1, 2, 3))
        assert values[f"{kind}/psnr"] == pytest.approx((-10 * error.log10()).mean().item(), abs=1e-4) and values[f"{kind}/frames"] == len(at)
    assert score_kinds(out, path, {"novel": [0, 1]}, [PSNR()]) == {}, "given frames are nobody's"
    assert score_kinds(replace(out, generated=torch.zeros(33, dtype=torch.bool)), path, {"novel": [5]}, [PSNR()]) == {}


def test_what_memory_is_worth():
    values = {"audit/psnr_none": 3.0, "audit/psnr_true_none": 1.0, "audit/lpips_true_none": -0.2, "cost/stored_bytes": 1.5e6, "cost/attended_tokens": 500.0}
    found = retention(values, [PSNR(), LPIPS()])
    assert found == {
        "retention/psnr_mb": pytest.approx(2.0),
        "retention/psnr_ktokens": pytest.approx(6.0),
        "retention/lpips_mb": pytest.approx(0.2 / 1.5),
        "retention/lpips_ktokens": pytest.approx(0.4),
    }
    assert retention({k: v for k, v in values.items() if "none" not in k}, [PSNR()]) == {}, "without an audit there is no floor"
