"""Codecs: their error bounds, their bytes, and that they touch nothing but what was banked."""

import pytest
import torch

from harness.cache.codecs import Codec, Exact, Fp8, Int4, Int8
from harness.cache.page import Page
from harness.cache.stores import GpuStore, PinnedStore
from tests.conftest import make_policy

CODECS = [Int8(), Fp8(), Int4(32), Int4(8)]
IDS = ["int8", "fp8", "int4", "int4/8"]


def numbers(dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Keys as they come: heads of very different sizes, a few channels ten times as large, a token that is all zero."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 1, 40, 3, 64, generator=g) * 10 ** torch.linspace(-3, 2, 40)[:, None, None]
    x[..., ::17] = x[..., ::17] * 10 + 1
    x[:, :, 7] = 0
    return x.to(dtype)


def bound(codec: Codec, x: torch.Tensor) -> torch.Tensor:
    """What the docstrings promise."""
    x = x.double()
    largest = x.abs().amax(-1, keepdim=True)
    if isinstance(codec, Int8):
        return 0.57 / 127 * largest + 127 * 2.0**-25
    if isinstance(codec, Fp8):
        return x.abs() / 16 + 2.0**-10 / 448 * largest + 448 * 2.0**-25
    groups = x.unflatten(-1, (-1, codec.group))
    span = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    return (span / 30 + groups.abs().amax(-1, keepdim=True) * 2.0**-10 + 15 * 2.0**-25).expand_as(groups).flatten(-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("codec", CODECS, ids=IDS)
def test_error_bounds(codec, dtype):
    x = numbers(dtype)
    y = codec.decode(codec.encode(x), dtype)
    assert y.dtype == dtype and y.shape == x.shape
    error = (x.double() - y.double()).abs()
    slack = 0 if dtype == torch.float32 else 2.0**-8 * y.double().abs()  # the answer's own rounding
    assert (error <= bound(codec, x) * (1 + 1e-3) + slack).all()
    assert (y[:, :, 7] == 0).all()
    # the bound is not idle: some number comes within a fifth of it
    assert (error / bound(codec, x)).max() > 0.8


@pytest.mark.parametrize("codec", CODECS, ids=IDS)
def test_bits_a_number(codec):
    """Two bytes of scale a head of 64 channels (int8, fp8); four a group (int4)."""
    x = numbers(torch.bfloat16)
    packed = codec.pack(Page(x, x, torch.zeros(2, 40, 3)))
    bits = {"int8": 8 + 16 / 64, "fp8": 8 + 16 / 64, "int4": 4 + 32 / 32, "int4/8": 4 + 32 / 8}[IDS[CODECS.index(codec)]]
    assert packed.nbytes * 8 == bits * 2 * x.numel()
    assert all(p.is_contiguous() for p in (*packed.k, *packed.v))


@pytest.mark.parametrize("codec", CODECS, ids=IDS)
def test_coding_twice_adds_next_to_nothing(codec):
    """A page that is pruned in the store is decoded and coded again."""
    x = numbers(torch.float32)
    once = codec.decode(codec.encode(x), x.dtype)
    twice = codec.decode(codec.encode(once), x.dtype)
    assert ((twice - once).abs() <= 0.02 * bound(codec, x) + 2.0**-10 * x.abs().amax(-1, keepdim=True)).all()


def test_rows_are_independent():
    """Coding some rows gives what coding all of them gives for these rows."""
    x, rows = numbers(torch.float32), [3, 7, 30]
    for codec in CODECS:
        for part, whole in zip(codec.encode(x[:, :, rows]), codec.encode(x), strict=True):
            assert torch.equal(part, whole[:, :, rows])


def test_exact_is_exact():
    x = numbers(torch.bfloat16)
    page = Page(x, x + 1, torch.zeros(2, 40, 3))
    again = Exact().unpack(Exact().pack(page))
    assert again.k.data_ptr() == page.k.data_ptr() and torch.equal(again.v, page.v)


def test_groups_must_divide_a_head():
    with pytest.raises(ValueError, match="groups of 24 do not divide a head of 64"):
        Int4(24).encode(numbers(torch.float32))


@pytest.mark.parametrize("codec", [Int8(), Fp8(), Int4()], ids=IDS[:3])
def test_only_banked_pages_are_coded(codec, roll, backbone):
    """Windows that take nothing from the bank are bitwise what they were; retrieved rows differ, by little; on every tier."""
    for policy in (make_policy("sliding"), make_policy("worldkv", "policy.retrieved=0"), make_policy("full")):
        assert torch.equal(roll(policy, GpuStore(codec)).latents, roll(policy).latents)
    for name in ("worldkv", "worldkv_rebased"):
        exact, coded = roll(make_policy(name)), roll(make_policy(name), GpuStore(codec))
        off = (exact.latents - coded.latents).abs().max()
        assert 0 < off < (0.3 if isinstance(codec, Int4) else 0.05) * exact.latents.abs().max()
        assert torch.equal(coded.latents, roll(make_policy(name), PinnedStore(codec)).latents)


def test_bytes_are_those_of_the_codes(roll, known, backbone):
    """Resident and moved bytes shrink by the same ratio, and the exact store is what it was."""
    g = backbone.geometry
    ratio = (1 + 2 / g.head_dim) / g.dtype.itemsize
    exact, coded = known("worldkv"), roll(make_policy("worldkv"), PinnedStore(Int8()))
    for a, b in zip(exact.stats, coded.stats, strict=True):
        assert b.bank_bytes_cpu == ratio * a.bank_bytes_gpu
        assert b.bytes_moved == ratio * a.bytes_moved
        assert b.window_bytes == a.window_bytes
