"""Older frames averaged over blocks of tokens, against loops over the grid on what was committed."""

from math import cos, log, pi, sin

import pytest
import torch
from hydra import compose, initialize_config_dir

from harness.cache.page import Page
from harness.datatypes import Geometry
from harness.policy import PolicyWrapper
from harness.settings.build import build
from policies.pooled import averaged, blocks
from tests.conftest import CONF, make_policy

SMALL = "backbone.sizes={dim: 32, heads: 2, layers: 1, ffn: 8, context_dim: 8}"


class Witness(PolicyWrapper):
    """Every frame's rows as they were made, and what the last chunk's clean pass attended to."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.made, self.seen = {}, {}

    def attend(self, q, k, v, site):
        if site.clean:
            self.seen[site.layer] = (k[0].clone(), v[0].clone(), site)
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        n = len(kv.positions) // len(chunk.frames)
        for i, f in enumerate(chunk.frames):
            part = slice(i * n, (i + 1) * n)
            self.made[f] = (kv.k[:, 0, part].double(), kv.k_raw[:, 0, part].double(), kv.v[:, 0, part].double(), kv.positions[part].double())
        super().commit(chunk, kv, bank)


def members(rows, columns, size):
    """Tokens of each block of `size` x `size`, by their coordinates."""
    found = {}
    for token in range(rows * columns):
        y, x = divmod(token, columns)
        found.setdefault((y // size, x // size), []).append(token)
    return [found[at] for at in sorted(found)]


@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (5, 7), (1, 3), (2, 3)])
def test_blocks_of_blocks_are_the_means_of_their_tokens(rows, columns):
    g = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 2, 1, rows * columns, 3, 4, generator=g)
    page = Page(k, v, torch.rand(2, rows * columns, 3, generator=g))
    twice, grid = page, (rows, columns)
    for size in (2, 4):
        twice, grid = averaged(twice, blocks(*grid)), (-(-grid[0] // 2), -(-grid[1] // 2))
        want = members(rows, columns, size)
        assert twice.rows == len(want) and twice.mass.tolist() == [[len(m) for m in want]] * 2
        for i, m in enumerate(want):
            for name in ("k", "v"):
                assert torch.allclose(getattr(twice, name)[:, 0, i], getattr(page, name)[:, 0, m].mean(1), atol=1e-6)
            assert torch.allclose(twice.positions[:, i], page.positions[:, m].mean(1), atol=1e-6)


def test_equal_rows_are_one_row_with_their_mass():
    """Attention over a block whose rows are equal is the attention over its mean, whose mass is their number."""
    g = torch.Generator().manual_seed(0)
    k, v = (torch.randn(2, 1, 1, 2, 32, generator=g).expand(2, 1, 4, 2, 32) for _ in range(2))
    one = averaged(Page(k, v, torch.tensor([5.0, 0.3, 3.1]).expand(2, 4, 3)), torch.zeros(4, dtype=torch.long))
    assert torch.equal(one.k, k[:, :, :1]) and torch.equal(one.v, v[:, :, :1]) and one.mass.tolist() == [[4.0]] * 2
    q, other = torch.randn(1, 5, 2, 32, generator=g), torch.randn(2, 1, 3, 2, 32, generator=g)

    def attend(keys, values, mass):
        logits = torch.einsum("bmhd,bnhd->bhmn", q, keys) / 32**0.5 + mass.log()
        return torch.einsum("bhmn,bnhd->bmhd", logits.softmax(-1), values)

    for layer in range(2):
        many = attend(*(torch.cat([x[layer], other[layer]], 1) for x in (k, v)), torch.ones(7))
        few = attend(*(torch.cat([x[layer], other[layer]], 1) for x in (one.k, one.v)), torch.tensor([4.0, 1, 1, 1]))
        torch.testing.assert_close(many, few, atol=1e-6, rtol=0)


def test_angles_on_both_sides_of_a_turn_average_on_one():
    """Directions on a circle, of a grid of 4x4 that looks across the turn: the mean direction of each block, by unit vectors. And
    where all rows look the same way, a turn apart, the mean is that way."""
    g = torch.Generator().manual_seed(1)
    across = torch.linspace(pi - 0.2, pi + 1.0, 4).repeat(4) + 0.01 * torch.randn(16, generator=g)
    wrapped = torch.atan2(across.sin(), across.cos())
    assert (wrapped[0] > 2.5) and (wrapped[1] < -2.5)
    positions = torch.stack([torch.full((16,), 7.0), torch.rand(16, generator=g), wrapped], 1)
    k, v = torch.randn(2, 1, 1, 16, 3, 4, generator=g)
    page = Page(k, v, positions[None])
    for size in (2, 4):
        page = averaged(page, blocks(*(8 // size, 8 // size)))
        for i, m in enumerate(members(4, 4, size)):
            t, elevation, azimuth = page.positions[0, i].tolist()
            mean = across[m].mean().item()
            assert (t, elevation) == pytest.approx((7.0, positions[m, 1].mean().item()), abs=1e-6)
            assert (cos(azimuth), sin(azimuth)) == pytest.approx((cos(mean), sin(mean)), abs=1e-5)
    apart = torch.tensor([5.0, 0.3, 3.1]).repeat(1, 4, 1)
    apart[:, 2:, 2] -= 2 * pi
    one = averaged(Page(k[:, :, :4], v[:, :, :4], apart), torch.zeros(4, dtype=torch.long))
    torch.testing.assert_close(one.positions, apart[:, :1], atol=1e-6, rtol=0)


@pytest.mark.parametrize("mass", [True, False])
@pytest.mark.parametrize("keys", ["rotated", "raw"])
def test_the_window_shows_means_of_what_was_made(keys, mass, roll, backbone):
    """33 frames in three sizes: of the 24 old ones the newest 6 at 2x2 (2 rows), the 12 before them at 4x4 (1 row), the others gone."""
    witness = Witness(make_policy("pooled", "policy.budget=4", "policy.fine=0.5", f"policy.keys={keys}", f"policy.mass={mass}"))
    stats = roll(witness).stats
    last = stats[-1]
    sizes = {f: 1 for f in (0, 1, 2, 27, 28, 29)} | {f: 2 for f in range(21, 27)} | {f: 4 for f in range(9, 21)}
    assert set(last.attended) == set(sizes) and set(last.unreachable) == set(range(3, 9))
    assert last.attended_rows == 6 * 9 + 6 * 2 + 12 * 1
    differ = 0
    for layer, (k, v, site) in witness.seen.items():
        for f, size in sizes.items():
            rotated, raw, values, positions = witness.made[f]
            at = torch.from_numpy(site.slots[f])
            blocks_ = members(2, 3, size)
            assert len(at) == len(blocks_)
            for row, m in zip(at, blocks_, strict=True):
                key = rotated[layer, m].mean(0)
                if keys == "raw":
                    key = backbone.rope(positions[m].mean(0)[None].float())(raw[layer, m].mean(0)[None, None].float())[0, 0]
                assert torch.allclose(k[row].double(), key.double(), atol=1e-4 if keys == "raw" else 1e-5)  # angles of float32
                assert torch.allclose(v[row].double(), values[layer, m].mean(0), atol=1e-5)
                bias = 0.0 if site.bias is None else float(site.bias[row])
                assert bias == pytest.approx(log(len(m)) if mass else 0.0, abs=1e-6)
                differ += bias > 0
    assert (differ > 0) == mass


def test_without_limit_everything_is_remembered(roll, known, backbone):
    """The whole past at 2x2 or at 4x4, and nothing averaged while all of it is recent."""
    for fine, rows in ((1.0, 2), (0.0, 1)):
        last = roll(make_policy("pooled", "policy.budget=inf", f"policy.fine={fine}")).stats[-1]
        assert not last.unreachable_frames and last.attended_rows == 9 * 6 + 24 * rows
    assert torch.equal(roll(make_policy("pooled", "policy.recent=300")).latents, known("full").latents)
    assert torch.equal(roll(make_policy("pooled", "policy.budget=0")).latents, known("sink_recent", "policy.recent=3").latents)


def test_bytes_are_those_of_the_averages(roll, backbone):
    """After the last chunk frames 24 to 29 are at 2x2 and 12 to 23 at 4x4; every averaged row has a mass in each layer."""
    g = backbone.geometry
    for mass in (True, False):
        last = roll(make_policy("pooled", "policy.budget=4", "policy.fine=0.5", f"policy.mass={mass}")).stats[-1]
        assert last.bank_bytes_gpu == (6 * 2 + 12) * (g.row_bytes + g.layers * 4 * mass)


def test_a_backbone_whose_grid_is_unknown_is_refused():
    with pytest.raises(ValueError, match="geometry.columns=0"):
        make_policy("pooled").reset(Geometry(layers=2, heads=2, head_dim=4, tokens=5, chunk=3))


@pytest.mark.parametrize("name", ["rooms", "rooms_tiny", "matrix_game2", "lingbot", "self_forcing"])
def test_backbones_say_how_their_tokens_lie(name):
    size = [] if name.startswith("rooms") else ["backbone.weights=random", "backbone.size=[64,96]", SMALL]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        backbone = build(compose("config", [f"backbone={name}", *size]).backbone, "backbone")
    g = backbone.geometry
    assert g.tokens % g.columns == 0 and g.columns / (g.tokens // g.columns) == {"rooms": 1.0}.get(name, 1.5)
