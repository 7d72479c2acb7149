"""Layers and heads that remember different rows: pages, the window and attention against an explicit mask in float64."""

import pytest
import torch

from harness.cache.attention import dense, groups_of, reference
from harness.cache.bank import KVBank
from harness.cache.codecs import Exact, Int8
from harness.cache.context import ContextBuffer
from harness.cache.page import Page
from harness.cache.stores import GpuStore
from harness.datatypes import Chunk, Condition, Plan
from tests.test_context import GEOMETRY, Spy, rope

LAYERS, HEADS, ROWS, WIDTH = 2, 3, 8, 6


def page(seed: int = 0, rows: int = ROWS) -> Page:
    g = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, LAYERS, 1, rows, HEADS, WIDTH, generator=g)
    return Page(k, v, torch.rand(LAYERS, rows, 3, generator=g))


def choice(seed: int = 1, count: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(LAYERS, ROWS, HEADS, generator=g).argsort(1)[:, :count]


def test_heads_keep_rows_of_their_own():
    whole, rows = page(), choice()
    kept = whole.keep(rows)
    assert kept.rows == 3 and kept.positions.shape == (LAYERS, 3, HEADS, 3)
    for layer in range(LAYERS):
        for head in range(HEADS):
            at = rows[layer, :, head]
            assert torch.equal(kept.k[layer, 0, :, head], whole.k[layer, 0, at, head])
            assert torch.equal(kept.v[layer, 0, :, head], whole.v[layer, 0, at, head])
            assert torch.equal(kept.positions[layer, :, head], whole.positions[layer, at])
    again = kept.keep(torch.tensor([[2, 0], [1, 2]]))
    assert torch.equal(again.k[1, 0, :, 2], whole.k[1, 0, rows[1, [1, 2], 2], 2])
    assert torch.equal(again.positions[1, :, 2], whole.positions[1, rows[1, [1, 2], 2]])
    both = Page.joined([whole, kept])
    assert torch.equal(both.keep(torch.arange(ROWS, ROWS + 3).expand(LAYERS, 3)).positions, kept.positions)


def test_absent_rows_take_no_bytes_and_come_back_as_zeros():
    whole = page()
    seen = torch.rand(LAYERS, ROWS, HEADS, generator=torch.Generator().manual_seed(3)) < 0.4
    part = whole.only(seen)
    packed = Exact().pack(part)
    numbers = 2 * int(seen.sum()) * WIDTH * 4
    assert sum(x.nbytes for x in (*packed.k, *packed.v)) == numbers
    assert packed.nbytes == numbers + part.mass.nbytes + seen.numel(), "masses and marks count"
    back = Exact().unpack(packed)
    assert torch.equal(back.k, whole.k * seen[:, None, ..., None]) and torch.equal(back.mass, seen.float())
    assert torch.equal(part.only(~seen).mass, torch.zeros_like(part.mass)), "what is absent stays absent"
    assert (Int8().unpack(Int8().pack(part)).v - back.v).abs().max() < 0.02
    assert Exact().pack(whole.only(torch.ones(LAYERS, ROWS, dtype=torch.bool))).present is None


def test_grouped_attention_equals_a_mask():
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(5, 4, 6, generator=g), torch.randn(9, 4, 6, generator=g), torch.randn(9, 4, 6, generator=g)
    seen = torch.rand(4, 9, generator=g) < 0.5
    seen[:, -1], seen[2] = True, seen[0]
    groups = groups_of(seen)
    assert len(groups) == 3 and groups_of(torch.ones_like(seen)) == ()
    out = dense(q[None], k[None], v[None], None, groups)
    mass = torch.rand(4, 9, generator=g) + 1
    biased = dense(q[None], k[None], v[None], mass.log(), groups)
    for head in range(4):
        one = (x[None, :, head : head + 1] for x in (q, k, v))
        assert torch.allclose(out[:, :, head : head + 1], reference(*one, seen[head].expand(5, 9)), atol=1e-5)
        rows = seen[head].nonzero()[:, 0].repeat_interleave(1)
        weights = (torch.einsum("md,nd->mn", q[:, head].double(), k[rows, head].double()) / 6**0.5).exp() * mass[head, rows]
        assert torch.allclose(biased[0, :, head].double(), weights / weights.sum(1, keepdim=True) @ v[rows, head].double(), atol=1e-5)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_window_shows_every_head_its_own_rows(seed, raw):
    """Random plans with rows a head, frames shut to some heads, and banked pages with absent rows."""

    class Reads(Spy):
        def attend(self, q, k, v, site):
            out = super().attend(q, k, v, site)
            self.out[site.layer] = (q, out, site)
            return out

    g, rng = GEOMETRY, torch.Generator().manual_seed(seed)
    context, policy = ContextBuffer(g, 1, rope, 10**4), Reads()
    bank, pages = KVBank(g, context, GpuStore(), raw), {}

    def draw(*shape):
        return torch.rand(*shape, generator=rng)

    for c in range(10):
        policy.seen, policy.out = {}, {}
        chunk = Chunk(c, 3 * c, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))
        frames = [f for f in bank.frames if draw(1) < 0.6]
        rows = {f: draw(g.layers, bank.rows(f), g.heads).argsort(1)[:, :2] for f in frames if bank.rows(f) >= 2 and draw(1) < 0.3}
        seen = {f: draw(g.layers, g.heads) < 0.5 for f in frames if draw(1) < 0.4}
        positions = draw(15, 3)
        context.assemble(Plan(tuple(frames), rows=rows, seen=seen), bank, chunk, Condition(positions, ()), policy)
        context.begin_pass(0, True)
        for layer in range(g.layers):
            q, k, v = torch.randn(3, 1, 15, 2, 4, generator=rng)
            context.kv(layer, q, k, v)
            rotated, out, site = policy.out[layer]
            for head in range(g.heads):
                keys, values, mass = [rope(positions)(k)[0, :, head]], [v[0, :, head]], [torch.ones(15)]
                for f in frames:
                    if f in seen and not seen[f][layer, head]:
                        continue
                    part = pages[f].keep(rows[f]) if f in rows else pages[f]
                    at, x = part.positions[layer], part.k[layer, 0, :, head]
                    at = at if at.dim() == 2 else at[:, head]
                    keys.append(rope(at)(x[:, None])[:, 0] if raw else x)
                    values.append(part.v[layer, 0, :, head])
                    m = torch.ones(part.rows) if part.mass is None else part.mass[layer]
                    mass.append(m if m.dim() == 1 else m[:, head])
                keys, values, mass = torch.cat(keys).double(), torch.cat(values).double(), torch.cat(mass).double()
                weights = (rotated[0, :, head].double() @ keys.T / 2).exp() * mass
                expected = weights / weights.sum(1, keepdim=True) @ values
                assert torch.allclose(out[0, :, head].double(), expected, atol=1e-5), (c, layer, head)
        bank.append(chunk, context.chunk_kv())
        for f in chunk.frames:
            kind = draw(1)
            if kind < 0.3:
                bank.write(f, bank.page(f).only(draw(g.layers, 5, g.heads) < 0.6))
            elif kind < 0.6:
                bank.replace((f,), draw(g.layers, 5, g.heads).argsort(1)[:, :3])
            elif kind < 0.8:
                kept = draw(g.layers, 5, g.heads).argsort(1)[:, :3]
                into = torch.randint(3, (g.layers, 5, g.heads), generator=rng).scatter(1, kept, torch.arange(3)[None, :, None].expand(g.layers, 3, g.heads))
                bank.replace((f,), kept, into)
            pages[f] = bank.page(f)
