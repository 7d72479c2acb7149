"""How layers share a token budget, and what a pyramid of compression keeps."""

import numpy as np
import pytest
import torch

from harness.cache.page import Page
from harness.datatypes import Site
from policies.parts.split.base import Pyramid, Uniform
from policies.parts.split.cake import CakeSplit
from tests.conftest import make_policy
from tests.ledger import close


def test_splits_spend_the_budget():
    rng = np.random.default_rng(0)
    for layers in (1, 2, 5, 30):
        for split in (Uniform(), Pyramid(), Pyramid(beta=0.6), CakeSplit()):
            split._layers = layers
            if isinstance(split, CakeSplit):
                split._preference = torch.tensor(rng.random(layers) ** 4)
            for mean in (0, 1, 7, 54) * 30:
                caps = rng.integers(0, 120, layers).tolist()
                counts = split.counts(mean, caps)
                assert sum(counts) == min(mean * layers, sum(caps))
                assert all(0 <= n <= cap for n, cap in zip(counts, caps, strict=True))
                w = split.weights()
                free = [i for i in range(layers) if counts[i] < caps[i]]
                scale = [counts[i] / w[i] for i in free if w[i] * mean > 3]
                assert not scale or max(scale) - min(scale) <= 2 / min(w[i] for i in free if w[i] * mean > 3), "not in proportion"
    pyramid = Pyramid()
    pyramid._layers = 4
    assert pyramid.weights() == pytest.approx([1.95, 1.95 - 1.9 / 3, 0.05 + 1.9 / 3, 0.05])
    assert pyramid.counts(100, [1000] * 4) == [195, 132, 68, 5]
    assert Uniform.counts(pyramid, 100, [150, 1000, 1000, 1000])[0] == 150


def test_cake_preferences_from_full_matrices(backbone):
    """exp(entropy) would be another method: the docstring's formula, query by query."""
    g, rng = backbone.geometry, torch.Generator().manual_seed(0)
    split = CakeSplit(tau_dispersion=2.0, tau_shift=0.5)
    split.reset(g)
    total = np.zeros(g.layers)
    for chunk in range(2):
        q, k = torch.randn(g.layers, 1, 18, g.heads, g.head_dim, generator=rng), torch.randn(g.layers, 1, 40, g.heads, g.head_dim, generator=rng)
        for layer in range(g.layers):
            split.look(q[layer] * 5, k[layer], Site(layer, 0, False, 22, chunk))  # a noisy pass is not looked at
            split.look(q[layer] * (layer + 1), k[layer], Site(layer, 2, True, 22, chunk))
            entropy, shift = [], []
            for head in range(g.heads):
                past = k[layer, 0, :22, head].double()
                p = torch.softmax((q[layer, 0, :, head].double() * (layer + 1)) @ past.T / g.head_dim**0.5, 1).numpy()
                entropy += [-(row * np.log(row)).sum() for row in p]
                shift.append(np.var([p[6 * f : 6 * f + 6].mean(0) for f in range(3)], axis=0).sum())
            total[layer] += np.mean(entropy) ** 0.5 * np.mean(shift) ** 2
    assert split.weights() == pytest.approx(total, rel=1e-5)


def test_pyramid_compression_keeps_as_many_rows(roll, known, backbone):
    """Banked chunks under a pyramid: the same number of rows over all layers, and of each layer those that are least like the anchor."""
    g, chunk_rows = backbone.geometry, {}
    for name in ("worldkv", "worldkv_pyramid"):
        policy, banks = make_policy(name, "policy.compressor.ratio=0.5"), []
        commit = policy.commit

        def watched(chunk, kv, bank, commit=commit, banks=banks):
            commit(chunk, kv, bank)
            banks.append({f: bank.page(f) for f in range(3, 9) if chunk.index == 5})

        policy.commit = watched
        roll(policy)
        chunk_rows[name] = banks[5]
    for frame in (4, 5, 7, 8):
        plain, pyramid = chunk_rows["worldkv"][frame], chunk_rows["worldkv_pyramid"][frame]
        present = pyramid.present
        assert plain.rows * g.layers == int(present[..., 0].sum()) and (present == present[..., :1]).all()
        assert present[..., 0].sum(1).tolist() == [6, 3, 0], "three of six rows on average"
    assert close(roll(make_policy("worldkv_pyramid", "policy.compressor.split.beta=1")).latents, known("worldkv").latents)


def test_rows_filled_up_are_absent():
    g = torch.Generator().manual_seed(0)
    page = Page(*torch.randn(2, 2, 1, 5, 3, 4, generator=g), torch.rand(2, 5, 3, generator=g))
    kept = page.keep(torch.tensor([[1, 2, 4], [3, -1, -1]]))
    assert kept.mass.tolist() == [[1, 1, 1], [1, 0, 0]] and torch.equal(kept.k[0], page.k[0, :, [1, 2, 4]])
    into = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 0, 0, 0]])
    merged = page.merge(torch.tensor([[1, 2, 4], [3, -1, -1]]), into)
    assert merged.mass.tolist() == [[2, 1, 2], [5, 0, 0]] and torch.allclose(merged.v[1, :, 0], page.v[1].mean(1))


def test_merging_under_a_pyramid_loses_nothing(roll, backbone):
    g, seen = backbone.geometry, []
    policy = make_policy("worldkv_pyramid", "policy/compressor=merge", "+policy/split@policy.compressor.inner.split=pyramid")
    commit = policy.commit

    def watched(chunk, kv, bank):
        commit(chunk, kv, bank)
        seen.extend(bank.page(f).mass for f in bank.frames if bank.page(f).mass is not None)

    policy.commit = watched
    roll(policy)
    assert seen and all((m.sum(1) == 3 * g.tokens).all() for m in seen)
    assert any((m == 0).any() for m in seen), "no layer keeps less than another"
