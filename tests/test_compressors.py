"""Compressors against their formulas, one key at a time in float64."""

import numpy as np
import pytest
import torch

from harness.datatypes import KV, Chunk
from policies.parts.compress.anchor import AnchorCompressor
from policies.parts.compress.controls import BlindCompressor
from policies.parts.compress.keydiff import KeyDiffCompressor
from tests.conftest import make_policy
from tests.tolerances import SECOND_ROUTE


@pytest.fixture(scope="module")
def chunk():
    return Chunk(4, 12, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))


@pytest.fixture(scope="module")
def kv(backbone):
    g, rng = backbone.geometry, torch.Generator().manual_seed(0)
    k, raw, v = torch.randn(3, g.layers, 1, 3 * g.tokens, g.heads, g.head_dim, generator=rng)
    return KV(k, raw, v, torch.zeros(3 * g.tokens, 3))


def units(k, layer):
    """Keys of a layer, heads concatenated, of unit length: frames x tokens x channels."""
    x = k[layer, 0].flatten(1).double().numpy()
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).reshape(3, 6, -1)


FORMULAS = {
    "mean": lambda key, anchor, place: np.mean([key @ a for a in anchor]),
    "colocated": lambda key, anchor, place: key @ anchor[place],
    "max": lambda key, anchor, place: max(key @ a for a in anchor),
}


@pytest.mark.parametrize("keys", ["rotated", "raw"])
@pytest.mark.parametrize("similarity", FORMULAS)
def test_anchor_similarities(similarity, keys, chunk, kv, backbone):
    c = AnchorCompressor(ratio=0.5, similarity=similarity, keys=keys)
    c.reset(backbone.geometry)
    kept = dict(c.keep(chunk, kv))
    assert set(kept) == {(13,), (14,)}
    for layer in range(backbone.geometry.layers):
        frames = units(kv.k if keys == "rotated" else kv.k_raw, layer)
        for i in (1, 2):
            score = [FORMULAS[similarity](key, frames[0], place) for place, key in enumerate(frames[i])]
            assert kept[12 + i,][layer].tolist() == sorted(np.argsort(score)[:3].tolist())


@pytest.mark.parametrize("budget", ["frame", "pooled"])
def test_keydiff(budget, chunk, kv, backbone):
    c = KeyDiffCompressor(ratio=0.5, budget=budget)
    c.reset(backbone.geometry)
    kept = dict(c.keep(chunk, kv))
    for layer in range(backbone.geometry.layers):
        frames = units(kv.k, layer)
        score = frames @ frames.reshape(18, -1).mean(0)
        if budget == "pooled":
            assert kept[12, 13, 14][layer].tolist() == sorted(np.argsort(score.flatten())[:9].tolist())
        else:
            for i in range(3):
                assert kept[12 + i,][layer].tolist() == sorted(np.argsort(score[i])[:3].tolist())


def test_blind_rows(chunk, kv, backbone):
    uniform = BlindCompressor("uniform", 0.5, anchor=False)
    uniform.reset(backbone.geometry)
    assert [(f, r[0].tolist()) for f, r in uniform.keep(chunk, kv)] == [((12,), [1, 3, 5]), ((13,), [1, 3, 5]), ((14,), [1, 3, 5])]
    seen = set()
    for seed in range(9):
        random = BlindCompressor("random", 0.25, seed=seed)
        random.reset(backbone.geometry)
        kept = random.keep(chunk, kv)
        assert [f for f, _ in kept] == [(13,), (14,)] and all(len(set(r[0].tolist())) == 2 for _, r in kept)
        assert [r.tolist() for _, r in random.keep(chunk, kv)] == [r.tolist() for _, r in kept]
        seen |= set(kept[0][1][0].tolist())
    assert seen == set(range(6))


@pytest.mark.parametrize("name", ["random", "uniform", "keydiff"])
def test_everything_kept_equals_no_compression(name, roll, known):
    """Up to the order of rows in the window: a page that was replaced leaves it."""
    policy = make_policy("worldkv", f"policy/compressor={name}", "policy.compressor.ratio=1.0")
    ours, theirs = roll(policy).latents, known("retrieval_only").latents
    assert (ours - theirs).abs().max() < SECOND_ROUTE * theirs.abs().max()


def test_compressors_at_equal_bytes_differ(roll):
    """6 + 2 + 2 of 18 rows (a quarter of 6 tokens rounds up), or 3 a frame."""
    outs = [roll(make_policy("worldkv", f"policy.compressor.similarity={s}")) for s in ("mean", "colocated", "max")]
    assert len({o.stats[-1].bank_bytes_gpu for o in outs}) == 1
    outs += [roll(make_policy("worldkv", f"policy/compressor={c}")) for c in ("keydiff", "random", "uniform")]
    for i, a in enumerate(outs):
        for b in outs[:i]:
            assert not torch.equal(a.latents, b.latents)


@pytest.mark.parametrize(
    ("compressor", "override", "message"),
    [("anchor", "similarity=nearest", "mean, centroid, colocated or max"), ("keydiff", "ratio=0", "ratio=0"), ("random", "rows=odd", "use random or uniform")],
)
def test_bad_fields_are_refused(compressor, override, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy("worldkv", f"policy/compressor={compressor}", f"policy.compressor.{override}"))
