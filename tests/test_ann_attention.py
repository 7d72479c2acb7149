"""FAST-AR's AnnSA and AnnCA against second routes: dense attention and the nearest rows."""

import numpy as np
import pytest
import torch

from backbones import lingbot
from harness.benchmark.measure import there_and_back
from harness.cache.attention import dense, groups_of, reference
from harness.cache.stores import GpuStore
from harness.datatypes import Geometry, Site
from harness.rollout import rollout
from policies.full import FullPolicy
from policies.wrappers.ann import Hashing
from policies.wrappers.annca import AnnCaPolicy
from policies.wrappers.annsa import AnnSaPolicy
from tests.conftest import make_policy
from tests.test_tempcache import G, normal
from tests.tolerances import SECOND_ROUTE


@pytest.mark.parametrize("settings", [("policy.density=1",), ("policy.density=null", "policy.hashing.bits=0")])
def test_annsa_with_all_open_is_dense(settings, roll, known):
    full = known("full").latents
    assert (roll(make_policy("annsa", *settings, "policy.block=7")).latents - full).abs().max() < SECOND_ROUTE * full.abs().max()
    assert (roll(make_policy("annsa", "policy.density=0.3")).latents - full).abs().max() > 1e-3


def test_annsa_attends_to_the_nearest_rows():
    """Against an explicit mask in float64: the rows with most equal hash bits, the chunk itself always, the bias with them."""
    q, k, v = normal(1, 10, 3, 8), normal(1, 24, 3, 8, seed=1), normal(1, 24, 3, 8, seed=2)
    policy = AnnSaPolicy(FullPolicy(), density=0.25, block=4)
    policy.reset(G)
    bias = normal(24, seed=3).abs()
    out = policy.attend(q, k, v, Site(0, 0, False, 14, 0, bias=bias))
    planes = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    keys = k[0, :14].flatten(1)
    sides = (keys - keys.mean(0)) @ planes > 0
    mask = torch.zeros(10, 24, dtype=torch.bool)
    mask[:, 14:] = True
    for start in range(0, 10, 4):
        pooled = q[0, start : start + 4].flatten(1).mean(0) @ planes > 0
        equal = (sides == pooled).sum(1).tolist()
        mask[start : start + 4, sorted(range(14), key=lambda i: (-equal[i], i))[:4]] = True  # noqa: B023
    logits = torch.einsum("bmhd,bnhd->bhmn", q.double(), k.double()) / 8**0.5 + bias.double()
    expected = torch.einsum("bhmn,bnhd->bmhd", logits.masked_fill(~mask, -torch.inf).softmax(-1), v.double())
    assert torch.allclose(out.double(), expected, atol=1e-5)


def test_annsa_refuses_what_it_would_blind(backbone):
    for name in ("attention", "query"):
        with pytest.raises(ValueError, match="keeps scores of whole attention calls"):
            AnnSaPolicy(make_policy(name)).reset(backbone.geometry)


def test_annca_keeps_the_prompt_tokens_near_a_frames_queries():
    q, k, v = normal(1, 18, 3, 8), normal(1, 9, 3, 8, seed=1), normal(1, 9, 3, 8, seed=2)
    hashing, site = Hashing(bits=3, tables=2), Site(0, 0, False, 0, 0, cross=True)
    policy = AnnCaPolicy(FullPolicy(), density=0.5, hashing=hashing)
    policy.reset(G)
    keys = k[0].flatten(1)
    codes, out = hashing.codes(keys - keys.mean(0)), policy.attend(q, k, v, site)
    for frame in range(3):
        part = q[:, 6 * frame : 6 * frame + 6]
        near = [[bool((a == b).any()) for b in codes] for a in hashing.codes(part[0].flatten(1))]
        votes = [sum(row[i] for row in near) for i in range(9)]
        kept = sorted(sorted(range(9), key=lambda i: (-votes[i], i))[:5])  # noqa: B023
        expected = reference(part, k[:, kept], v[:, kept])
        assert torch.allclose(out[:, 6 * frame : 6 * frame + 6], expected, atol=1e-5)
    everything = AnnCaPolicy(FullPolicy(), density=None, hashing=Hashing(bits=0, tables=1))
    everything.reset(G)
    assert torch.allclose(everything.attend(q, k, v, site), reference(q, k, v), atol=1e-5)
    own = Site(0, 0, False, 4, 0)
    assert torch.equal(policy.attend(q, k, v, own), dense(q, k, v)), "self-attention is the inner policy's"


def test_annca_acts_on_a_model_with_a_prompt():
    """A Wan network's cross-attention passes through the seam: all tokens kept is the inner policy, half of them is not."""
    backbone = lingbot.load("random", size=(64, 96), dtype="float32", device="cpu", sizes=dict(dim=64, heads=2, layers=2, ffn=128, context_dim=32))
    path = there_and_back(backbone.geometry, 3, backbone.size)
    full, same, all_open, half = (
        rollout(backbone, make_policy(*which), GpuStore(), path, 0).latents
        for which in (("full",), ("annca", "policy.density=1"), ("annca", "policy.density=null", "policy.hashing.bits=0"), ("annca", "policy.density=0.1"))
    )
    assert torch.equal(same, full)
    assert (all_open - full).abs().max() < SECOND_ROUTE * full.abs().max()
    assert (half - full).abs().max() > 1e-4


def test_annsa_acts_where_heads_see_different_rows_and_the_chunk_lies_in_a_hole():
    """Against masks in float64: of the rows that a head sees, the chunk's own (wherever they are) and the nearest share of the others."""
    q, k, v = normal(1, 6, 3, 8), normal(1, 24, 3, 8, seed=1), normal(1, 24, 3, 8, seed=2)
    own = torch.arange(24).ge(8) & torch.arange(24).lt(14)  # rows 8 to 13: the hole that an evicted chunk left
    seen = torch.ones(3, 24, dtype=torch.bool)
    seen[0, :5] = False
    groups, bias = groups_of(seen), normal(3, 24, seed=3).abs()
    policy = AnnSaPolicy(FullPolicy(), density=0.3, block=6, hashing=Hashing(bits=8, tables=4))
    policy.reset(Geometry(layers=1, heads=3, head_dim=8, tokens=2, chunk=3))
    slots = {3 * c + i: np.arange(24)[torch.where(own, 1, 0).eq(c == 9).numpy()][2 * i : 2 * i + 2] for c in (9,) for i in range(3)}
    out = policy.attend(q, k, v, Site(0, 0, False, 18, 9, bias=bias, groups=groups, slots=slots))
    for heads, rows in groups:
        keys, past = k[0][rows][:, heads].flatten(1), (~own[rows]).nonzero()[:, 0]
        planes = torch.randn(keys.shape[1], 32, generator=torch.Generator().manual_seed(0))
        sides = (keys[past] - keys[past].mean(0)) @ planes > 0
        equal = (sides == (q[0][:, heads].flatten(1).mean(0) @ planes > 0)).sum(1).tolist()
        best = sorted(range(len(past)), key=lambda i: (-equal[i], i))[: -(-3 * len(past) // 10)]  # noqa: B023
        shown = torch.cat([rows[past[best]], own.nonzero()[:, 0]])
        for h in heads.tolist():
            logits = q[0, :, h].double() @ k[0, shown, h].double().T / 8**0.5 + bias[h, shown].double()
            assert torch.allclose(out[0, :, h].double(), logits.softmax(-1) @ v[0, shown, h].double(), atol=1e-5)


def test_fast_ar_is_sparse_in_every_layer(roll):
    """TempCache's layers hold different rows: a tenth of the window must not give what all of it gives."""
    whole, tenth = (roll(make_policy("fast_ar", f"policy.density={d}")).latents for d in (1, 0.1))
    dense_ = roll(make_policy("tempcache")).latents
    assert torch.equal(whole, dense_) and (tenth - dense_).abs().max() > 1e-3
