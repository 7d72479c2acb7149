"""Metrics against independent libraries and known answers."""

import lpips
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from harness.outcome import ChunkStats, Rollout
from harness.trajectory import RevisitPair, Trajectory
from metrics.cost import cost
from metrics.drift import drift, local_contrast
from metrics.frame import LPIPS, LPIPS_WEIGHTS, PSNR, SSIM
from metrics.metric_set import MetricSet
from metrics.revisit import mean_scores, score_pairs
from tests.tolerances import HALF, SKIMAGE


@pytest.fixture(scope="module")
def images():
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8, generator=g), (64, 64), mode="bicubic").clamp(0, 1)
    noise = torch.tensor([0.02, 0.1, 0.3, 0.0])[:, None, None, None]
    return smooth, (smooth + noise * torch.randn(smooth.shape, generator=g)).clamp(0, 1)


def test_psnr_equals_scikit_image(images):
    a, b = images
    mine = PSNR().score(a, b)
    theirs = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=1.0) for x, y in zip(a[:3], b[:3], strict=True)]
    assert np.allclose(mine[:3], theirs, atol=1e-3)
    assert mine[3] == 100.0, "identical images count as 100 dB"


def test_ssim_equals_scikit_image(images):
    mine = SSIM().score(*images)
    for value, x, y in zip(mine, *images, strict=True):
        theirs = structural_similarity(x.numpy(), y.numpy(), channel_axis=0, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        assert abs(value.item() - theirs) < SKIMAGE


@pytest.fixture(scope="module")
def reference_lpips(tmp_path_factory):
    """The published package, its trunk and heads filled from our file through its public arguments (no download)."""
    w = {k: v.float() for k, v in load_file(LPIPS_WEIGHTS).items()}
    state = {}
    for n, i in enumerate([0, 3, 6, 8, 10]):
        state[f"net.slice{n + 1}.{i}.weight"], state[f"net.slice{n + 1}.{i}.bias"] = w[f"conv{n}.weight"], w[f"conv{n}.bias"]
        state[f"lin{n}.model.1.weight"] = w[f"head{n}"][None, :, None, None]
    path = tmp_path_factory.mktemp("lpips") / "alex.pth"
    torch.save(state, path)
    model = lpips.LPIPS(net="alex", pnet_rand=True, model_path=str(path), verbose=False)
    assert not set(state) - set(model.state_dict()), "every tensor has a place"
    return model


def test_lpips_equals_the_package(images, reference_lpips):
    mine = LPIPS().score(*images)
    with torch.no_grad():
        theirs = reference_lpips(*images, normalize=True).flatten()
    assert torch.allclose(mine, theirs, atol=1e-5)
    assert mine[3].abs() < 1e-6
    assert mine[0] < mine[1] < mine[2]


def test_lpips_heads_are_the_published_ones():
    """The package ships its heads: ours are those, rounded to float16."""
    published = lpips.LPIPS(net="alex", pnet_rand=True, pretrained=True, verbose=False)
    mine = load_file(LPIPS_WEIGHTS)
    for i in range(5):
        head = getattr(published, f"lin{i}").model[1].weight.flatten()
        assert torch.allclose(mine[f"head{i}"].float(), head, rtol=HALF, atol=1e-7)


def test_metrics_average_and_complain(images):
    a, b = images
    metric = PSNR()
    metric.update(a[:1], b[:1])
    metric.update(a[1:3], b[1:3])
    assert metric.compute().item() == pytest.approx(PSNR().score(a[:3], b[:3]).mean().item(), rel=1e-6)
    with pytest.raises(ValueError, match="resize"):
        metric.update(a, b[..., :32])
    with pytest.raises(ValueError, match="at least 32 pixels"):
        LPIPS().score(a[..., :16, :16], b[..., :16, :16])
    with pytest.raises(FileNotFoundError, match="convert.py"):
        LPIPS(weights="nowhere.safetensors")


def _stats(chunk, seconds, forced=False, **changes):
    counts = dict(attended_rows=10 * chunk, window_bytes=100 * chunk, bank_bytes_gpu=7 * chunk, bank_bytes_cpu=5, bytes_moved=4, rows_rotated=0)
    sizes = dict(unreachable_frames=chunk, state_bytes=5, peak_bytes=1000 - chunk, retrieved=(), attended=())
    times = dict(seconds_plan=0.0, seconds_assemble=0.0, seconds_passes=seconds, seconds_commit=0.0, seconds_decode=0.0)
    base = dict(chunk=chunk, start=3 * chunk, frames=3, frames_px=12, forced=forced, **counts, **sizes, **times)
    return ChunkStats(**(base | changes))


def test_cost_by_hand():
    stats = (_stats(0, 9.0, forced=True), _stats(1, 1.0), _stats(2, 2.0), _stats(3, 3.0))
    values = cost(Rollout(torch.rand(12, 3, 8, 8), torch.arange(12) >= 3, stats, ""))
    assert values["cost/fps_mean"] == pytest.approx(36 / 6), "frames over seconds, not the mean of ratios; given chunks are left out"
    assert values["cost/fps_last"] == pytest.approx(4.0)
    assert values["cost/latency_p50_ms"] == pytest.approx(2000)
    assert values["cost/attended_tokens"] == pytest.approx(20)
    assert (values["cost/window_bytes"], values["cost/bank_bytes_gpu"], values["cost/peak_bytes"]) == (300, 21, 999)
    assert (values["cost/bank_bytes"], values["cost/stored_bytes"]) == (21 + 5, 300 + 21 + 5 + 5), "over the tiers, and with window and state"
    assert sum(v for k, v in values.items() if k.startswith("cost/share_")) == pytest.approx(1)


def test_pairs_are_scored_against_the_right_frames():
    g = torch.Generator().manual_seed(1)
    frames, truth = torch.rand(9, 3, 16, 16, generator=g), torch.rand(9, 3, 16, 16, generator=g)
    pairs = (RevisitPair(0, 8, 4, 0.0, 0.0), RevisitPair(1, 2, 4, 0.0, 0.0))
    one = torch.ones(9, 4)
    trajectory = Trajectory("t", torch.eye(4).repeat(9, 1, 1), one, torch.zeros(9, 6), truth[:3], pairs, reference=truth)
    rollout = Rollout(frames, torch.arange(9) >= 3, (), "")
    rows = score_pairs(rollout, trajectory, truth.flip(1), [PSNR()])
    assert len(rows) == 1, "frame 2 was given, so it is no revisit of the model's"
    psnr = {k: PSNR().score(a[None], b[None]).item() for k, (a, b) in {
        "revisit": (frames[0], frames[8]), "floor": (frames[0], frames[4]), "reference": (frames[8], truth[8]), "ceiling": (truth.flip(1)[8], truth[8]),
    }.items()}  # fmt: skip
    assert mean_scores(rows) == pytest.approx({f"quality/psnr_{k}": v for k, v in psnr.items()})
    no_truth = Trajectory("t", trajectory.c2w, one, trajectory.actions, truth[:3], pairs)
    assert set(mean_scores(score_pairs(rollout, no_truth, None, [PSNR()]))) == {"quality/psnr_revisit", "quality/psnr_floor"}, "what is missing is left out"
    assert drift(rollout, no_truth) == {}
    assert drift(rollout, trajectory)["quality/contrast"] == pytest.approx((local_contrast(frames[3:]).mean() / local_contrast(truth[3:]).mean()).item())


def test_blur_lowers_local_contrast(images):
    sharp = images[1][2:3]
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    assert local_contrast(blurred) < 0.8 * local_contrast(sharp)


def test_images_are_looked_at_once_and_nothing_changes(images, monkeypatch):
    """Pairs that share images, against one pair at a time through `score`; also where the features of all do not fit."""
    everything = torch.cat(images)
    a, b = torch.tensor([[0, 0, 1], [2, 7, 3]]), torch.tensor([[1, 4, 5], [6, 0, 3]])
    for metric in (PSNR(), SSIM(), LPIPS()):
        alone = torch.cat([metric.score(everything[i], everything[j]) for i, j in zip(a.flatten().split(1), b.flatten().split(1), strict=True)])
        assert torch.allclose(metric.compare(everything, a, b).flatten(), alone, rtol=1e-6, atol=1e-6), metric.name
    passed = []
    metric = LPIPS()
    metric.convolutions[0].register_forward_hook(lambda module, args, out: passed.append(len(args[0])))
    whole = metric.compare(everything, a, b)
    assert passed == [8], "eight images, in twelve places"
    monkeypatch.setattr("metrics.frame.FEATURES", 42 * 64 * 64 * 4)
    assert torch.allclose(metric.compare(everything, a, b), whole, rtol=1e-6, atol=1e-6)
    assert passed[1:] and max(passed[1:]) <= 4, "no more than fit"


@pytest.mark.parametrize("name", ["gap_x", "color_mean", "color_true", "color_none"])
def test_a_name_that_reads_as_another_column_is_refused(name):
    metric = PSNR()
    metric.name = name
    with pytest.raises(ValueError, match=f"`{name}` reads as another column"):
        MetricSet.of([metric])
