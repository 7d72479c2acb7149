"""Merged rows: attention over groups of equal keys is unchanged, and the window knows the mass of every row it serves."""

import pytest
import torch

from harness.cache.attention import dense, reference
from harness.cache.bank import KVBank
from harness.cache.codecs import Int8
from harness.cache.context import ContextBuffer
from harness.cache.page import Page
from harness.cache.stores import GpuStore
from harness.datatypes import KV, Chunk, Condition, Plan
from policies.parts.compress.anchor import AnchorCompressor
from policies.parts.compress.keydiff import KeyDiffCompressor
from policies.parts.compress.merge import MergeCompressor
from tests.conftest import make_policy
from tests.test_context import GEOMETRY, Spy, rope
from tests.tolerances import SECOND_ROUTE


def groups(seed: int = 0):
    """12 rows with 4 different keys in a layer; which kept row each belongs to."""
    g = torch.Generator().manual_seed(seed)
    rows = torch.tensor([[0, 4, 5, 11], [1, 2, 8, 9]])
    into = torch.randint(4, (2, 12), generator=g).scatter(1, rows, torch.arange(4).expand(2, 4))
    keys = torch.randn(2, 1, 4, 3, 8, generator=g)
    k = torch.take_along_dim(keys, into[:, None, :, None, None], 2)
    return k, torch.randn(2, 1, 12, 3, 8, generator=g), torch.randn(2, 1, 5, 3, 8, generator=g), rows, into


def test_merging_equal_keys_changes_no_attention():
    """TempCache's identity, against the definition in float64 over the rows before merging."""
    k, v, q, rows, into = groups()
    page = Page(k, v, torch.rand(2, 12, 3)).merge(rows, into)
    assert page.rows == 4 and page.nbytes == 4 * (2 * 2 * 3 * 8 * 4 + 2 * 4)
    assert page.mass.sum(1).tolist() == [12, 12]
    for layer in range(2):
        before = reference(q[layer], k[layer], v[layer])
        after = dense(q[layer], page.k[layer], page.v[layer], page.mass[layer].log())
        assert torch.allclose(before, after, atol=1e-6)
        assert not torch.allclose(before, dense(q[layer], page.k[layer], page.v[layer]), atol=1e-3), "without the bias it would not be the same"


def test_merging_in_two_steps_equals_one():
    k, v, _, rows, into = groups()
    once = Page(k, v, torch.rand(2, 12, 3)).merge(rows, into)
    order = torch.tensor([[0, 1], [2, 3]])
    pair = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]])
    twice = once.merge(order, pair)
    direct = Page(k, v, once.positions[:, :1].expand(2, 12, 3)).merge(rows.gather(1, order), pair.gather(1, into))
    assert torch.allclose(twice.v, direct.v, atol=1e-6) and torch.equal(twice.mass, direct.mass)


def test_joined_and_kept_pages_carry_their_masses():
    k, v, _, rows, into = groups()
    whole = Page(k, v, torch.rand(2, 12, 3))
    merged = whole.merge(rows, into)
    joined = Page.joined([whole, merged])
    assert torch.equal(joined.mass[:, :12], torch.ones(2, 12)) and torch.equal(joined.mass[:, 12:], merged.mass)
    assert torch.equal(joined.keep(torch.tensor([[13], [15]])).mass, torch.stack([merged.mass[0, 1:2], merged.mass[1, 3:4]]))
    assert Page.joined([whole, whole]).mass is None
    assert torch.equal(Int8().unpack(Int8().pack(merged)).mass, merged.mass)


@pytest.mark.parametrize("seed", range(3))
def test_the_window_serves_every_row_with_its_mass(seed):
    """Random plans over merged and whole frames: slots are handed on, moved and grown, and each keeps the right bias."""

    class Biased(Spy):
        def attend(self, q, k, v, site):
            bias = torch.zeros(k.shape[1]) if site.bias is None else site.bias
            self.pairs[site.layer] = {round(a, 5): round(b, 5) for a, b in zip(v[0, :, 0, 0].tolist(), bias.tolist(), strict=True)}
            return super().attend(q, k, v, site)

    g, rng = GEOMETRY, torch.Generator().manual_seed(seed)
    context, policy = ContextBuffer(g, 1, rope, 10**4), Biased()
    policy.seen, policy.pairs = {}, {}
    bank, truth = KVBank(g, context, GpuStore(), False), {}
    for c in range(12):
        chunk = Chunk(c, 3 * c, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))
        frames = [f for f in bank.frames if torch.rand(1, generator=rng) < 0.6]
        context.assemble(Plan.of_frames(frames), bank, chunk, Condition(torch.rand(15, 3, generator=rng), ()), policy)
        context.begin_pass(0, True)
        for layer in range(g.layers):
            q, k, v = torch.randn(3, 1, 15, 2, 4, generator=rng)
            context.kv(layer, q, k, v)
            expected = {key: bias for f in frames for key, bias in truth[f][layer].items()} | {round(x, 5): 0.0 for x in v[0, :, 0, 0].tolist()}
            assert policy.pairs[layer] == expected
        bank.append(chunk, context.chunk_kv())
        if c % 3:
            rows = torch.stack([torch.randperm(15, generator=rng)[:4].sort().values for _ in range(g.layers)])
            into = torch.randint(4, (g.layers, 15), generator=rng).scatter(1, rows, torch.arange(4).expand(g.layers, 4))
            bank.replace(chunk.frames, rows, into)
        for f in [f for f in chunk.frames if bank.rows(f)]:
            page = bank.page(f)
            mass = torch.ones(g.layers, page.rows) if page.mass is None else page.mass
            truth[f] = [
                {round(a, 5): round(b, 5) for a, b in zip(page.v[n, 0, :, 0, 0].tolist(), mass[n].log().tolist(), strict=True)} for n in range(g.layers)
            ]


def test_merge_keeps_what_the_inner_compressor_keeps(roll, known, backbone):
    """The same rows and bytes as pruning, the masses excepted; everything kept is no compression."""
    g = backbone.geometry
    prune, merge = (roll(make_policy(n, "policy.retrieved=6")) for n in ("worldkv", "merge"))
    for a, b in zip(prune.stats, merge.stats, strict=True):
        assert a.attended_rows == b.attended_rows
    assert (prune.latents - merge.latents).abs().max() > 1e-3
    # chunks 1 to 9: merged ones are banked when they leave the recent window, pruned anchors when they leave the window
    assert merge.stats[-1].bank_bytes_gpu == 9 * 10 * (g.row_bytes + 4 * g.layers)
    whole = roll(make_policy("merge", "policy.compressor.inner.ratio=1.0")).latents
    exact = known("retrieval_only").latents
    assert (whole - exact).abs().max() < SECOND_ROUTE * exact.abs().max()


def test_every_row_joins_the_nearest_kept_one(backbone):
    """One row at a time in float64: kept rows are those of the inner compressor, the others follow their raw keys."""
    g, rng = backbone.geometry, torch.Generator().manual_seed(0)
    k, raw, v = torch.randn(3, g.layers, 1, 3 * g.tokens, g.heads, g.head_dim, generator=rng)
    kv, chunk = KV(k, raw, v, torch.zeros(3 * g.tokens, 3)), Chunk(4, 12, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))
    for inner in (AnchorCompressor(), AnchorCompressor(budget="pooled"), KeyDiffCompressor()):
        merge = MergeCompressor(inner)
        merge.reset(g)
        ((frames, rows),) = kept = merge.keep(chunk, kv)
        (into,) = merge.into(chunk, kv, kept)
        assert frames == (12, 13, 14)
        for layer in range(g.layers):
            named = {i for fs, _ in inner.keep(chunk, kv) for f in fs for i in range(6 * (f - 12), 6 * (f - 12) + 6)}
            stays = {6 * (fs[0] - 12) + i for fs, r in inner.keep(chunk, kv) for i in r[layer].tolist()} | (set(range(18)) - named)
            assert rows[layer].tolist() == sorted(stays)
            keys = torch.nn.functional.normalize(raw[layer, 0].flatten(1).double(), dim=-1)
            nearest = [max(sorted(stays), key=lambda r: float(keys[i] @ keys[r])) for i in range(18)]  # noqa: B023
            assert rows[layer][into[layer]].tolist() == nearest


def test_at_retrieval_nothing_can_be_merged(backbone):
    with pytest.raises(ValueError, match="compress=retrieve chooses rows frame by frame"):
        make_policy("merge", "policy.compress=retrieve").reset(backbone.geometry)
