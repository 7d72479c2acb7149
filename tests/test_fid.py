"""FID: against its definition, from a resumed run's files, and left out with a reason."""

import numpy as np
import pytest
import scipy.linalg
import torch

from harness.results.record import Record
from harness.results.run_folder import RunFolder
from metrics.fid import FID, frechet


def test_frechet_is_its_definition():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(200, 6, generator=g), torch.randn(150, 6, generator=g) @ torch.randn(6, 6, generator=g) + 1
    x, y = a.double().numpy(), b.double().numpy()
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * np.real(root))
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="at least 2"):
        frechet(a[:1], b)


def test_features_are_kept_with_the_records(tmp_path):
    folder = RunFolder(tmp_path)
    folder.create()
    assert folder.features(["a"]) == {} and folder.without_features(["a"]) == ["a"]
    for name, n in (("a", 2), ("b/c", 3)):
        folder.write_features(name, {"fid": {"first": np.zeros((n, 4)), "again": np.ones((n, 4))}, "empty": {}})
        folder.write(Record(name, {}))
    kept = folder.features(["a", "b/c", "not yet"])
    assert kept.keys() == {"fid"} and kept["fid"]["first"].shape == (5, 4) and kept["fid"]["again"].min() == 1
    assert folder.without_features(["a", "b/c"]) == []
    results = folder.finish({}, ["a", "b/c"], {"quality/fid": {"mean": 1.0, "ci95": None, "n": 5}})
    assert results["summary"]["quality/fid"]["mean"] == 1.0


def test_what_is_missing_is_said(tmp_path):
    assert "download https" in FID().missing
    assert "no file at" in FID(str(tmp_path / "inception.pth")).missing


def test_features_of_frames(tmp_path, monkeypatch):
    """With weights left at random: one row of 2,048 an image, the same again, of other images others."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    weights = tmp_path / "inception.pth"
    torch.save({}, weights)
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, tensors: None)
    extractor = FID(str(weights))
    assert extractor.missing == ""
    frames = torch.rand(2, 3, 32, 48)
    features = extractor.extract(frames)
    assert features.shape == (2, 2048)
    assert torch.equal(extractor.extract(frames), features)
    assert not torch.equal(features[0], features[1])
