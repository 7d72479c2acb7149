"""The k-means codec: its bound, its bytes, its gain over plain int4 where rows cluster, and loops as a second route."""

import pytest
import torch

from harness.cache.codecs import Int4
from harness.cache.kmeans import KMeans
from harness.cache.page import Page
from harness.cache.stores import GpuStore, PinnedStore
from harness.settings.check import check_object
from tests.conftest import make_policy
from tests.test_codecs import numbers


def clustered(seed: int = 0, rows: int = 512, kinds: int = 8, spread: float = 0.15) -> torch.Tensor:
    """Rows around a few means, head by head: l b n h d."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(2, 1, 3, kinds, 64, generator=g)
    kind = torch.randint(kinds, (rows,), generator=g)
    return means[:, :, :, kind].movedim(2, 3) + spread * torch.randn(2, 1, rows, 3, 64, generator=g)


def residual(codec: KMeans, parts: tuple[torch.Tensor, ...], x: torch.Tensor) -> torch.Tensor:
    """What is left of x after its rows' centroids, row by row."""
    left = x.double().clone()
    for means, ids in zip(parts[2::2], parts[3::2], strict=True):
        for layer in range(x.shape[0]):
            for head in range(x.shape[3]):
                for row in range(x.shape[2]):
                    left[layer, 0, row, head] -= means[layer, head, int(ids[layer, head, row])].double()
    return left


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("bits", [2, 4])
def test_error_bound(bits, stages):
    for x in (numbers(torch.float32), clustered(rows=40)):
        codec = KMeans(bits=bits, group=16, rows=8, stages=stages)
        parts = codec.encode(x)
        error = (codec.decode(parts, x.dtype).double() - x.double()).abs().unflatten(-1, (-1, 16))
        largest = residual(codec, parts, x).unflatten(-1, (-1, 16)).abs().amax(-1, keepdim=True)
        bound = largest / 2**bits + 2.0**-10 * largest + 2.0**-24 + 1e-6 * x.abs().amax()  # the sums' own rounding
        assert (error <= bound).all()
        assert (error / bound).max() > 0.9, "the bound is idle"


def test_centroids_are_lloyds():
    """Four rounds by loops in float64, from evenly spaced rows."""
    x = clustered(rows=40)
    codec = KMeans(rows=8, iterations=4)
    _, _, means, ids = codec.encode(x)
    for layer in range(2):
        for head in range(3):
            rows = x[layer, 0, :, head].double()
            mine = rows[[0, 8, 16, 24, 32]]
            for _ in range(4):
                near = torch.cdist(rows, mine).argmin(1)
                mine = torch.stack([rows[near == c].mean(0) if (near == c).any() else mine[c] for c in range(5)])
            assert torch.allclose(means[layer, head].double(), mine, atol=2e-3)
            assert torch.equal(ids[layer, head].long(), torch.cdist(rows, means[layer, head].double()).argmin(1))


def test_clusters_pay():
    """The figures of the docstring: root mean square error against int4, on rows that cluster."""
    x = clustered()
    plain = (Int4(32).decode(Int4(32).encode(x), x.dtype) - x).square().mean().sqrt()
    for bits, times in ((4, 0.25), (2, 0.99)):
        codec = KMeans(bits=bits)
        error = (codec.decode(codec.encode(x), x.dtype) - x).square().mean().sqrt()
        assert error / plain == pytest.approx(times, abs=0.05), bits


@pytest.mark.parametrize("bits", [2, 4])
def test_bytes_count_centroids_and_numbers(bits):
    x = clustered(rows=64)
    codec = KMeans(bits=bits, group=32, rows=32)
    packed = codec.pack(Page(x, x, torch.zeros(2, 64, 3)))
    heads, rows, width = 6, 64, 64
    codes, scales, means, ids = rows * width * bits / 8, rows * 2 * 2, 2 * width * 2, rows
    assert packed.nbytes == 2 * heads * (codes + scales + means + ids)


def test_pages_with_absent_rows():
    x = clustered(rows=64)
    seen = torch.rand(2, 64, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    page = Page(x, -x, torch.zeros(2, 64, 3)).only(seen)
    codec = KMeans(rows=8)
    back = codec.unpack(codec.pack(page))
    there = seen[:, None, ..., None]
    assert not back.k.masked_fill(there, 0).any() and torch.equal(back.mass, page.mass)
    for mine, true in ((back.k, x), (back.v, -x)):
        assert ((mine - true) * there).square().mean().sqrt() < 0.06 * x.std(), "a row came back at another's place"
    nobody = codec.unpack(codec.pack(page.only(~seen)))
    assert not nobody.k.any() and nobody.k.shape == x.shape


@pytest.mark.parametrize("name", ["worldkv", "worldkv_rebased", "snapkv", "heads", "worldkv_pyramid"])
def test_only_banked_pages_are_coded(name, roll, known):
    codec = KMeans(rows=2)
    exact, coded = roll(make_policy(name)), roll(make_policy(name), GpuStore(codec))
    off = (exact.latents - coded.latents).abs().max()
    assert 0 < off < 0.3 * exact.latents.abs().max()
    assert torch.equal(coded.latents, roll(make_policy(name), PinnedStore(codec)).latents)
    assert torch.equal(roll(make_policy("sliding"), GpuStore(codec)).latents, known("sliding").latents)


@pytest.mark.parametrize("fields", [{"bits": 3}, {"centroids": 257}, {"rows": 0}])
def test_bad_fields_are_refused(fields):
    with pytest.raises(ValueError, match="codec"):
        check_object(KMeans(**fields), "codec")
    with pytest.raises(ValueError, match="groups of 24 do not divide a head of 64"):
        KMeans(group=24).encode(numbers(torch.float32))
