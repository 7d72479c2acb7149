"""Token budgets, head and layer splits against a second route: all rows, explicit masks, full attention matrices in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from backbones.rooms_network import AZIMUTH_FREQUENCIES, ELEVATION_FREQUENCIES, TIME_FREQUENCIES
from harness.cache.attention import groups_of, received, weights
from harness.cache.page import Page
from harness.datatypes import Geometry, Site
from policies.parts.score.deco import owners
from policies.parts.split.base import Pyramid, Uniform
from policies.parts.split.cake import CakeSplit
from policies.wrappers.heads import HeadsPolicy
from tests.conftest import make_policy, make_world
from tests.ledger import Ledger, simulate
from tests.tolerances import SECOND_ROUTE


def close(mine, other) -> bool:
    return (mine - other).abs().max() < SECOND_ROUTE * other.abs().max()


# -- the softmax


@pytest.mark.parametrize("numbers", [1, 200, 2**24])
def test_weights_are_the_softmax(numbers):
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 7, 3, 8, generator=g), torch.randn(2, 11, 3, 8, generator=g)
    seen, bias = torch.rand(3, 11, generator=g) < 0.6, torch.randn(3, 11, generator=g)
    seen[:, 0] = True
    logits = torch.einsum("bmhd,bnhd->bhmn", q.double(), k.double()) / 8**0.5
    for b, groups in ((None, ()), (bias[0], ()), (bias, ()), (None, groups_of(seen)), (bias, groups_of(seen))):
        full = logits + (0 if b is None else b.double().expand(3, 11)[None, :, None])
        full = (full.masked_fill(~seen[:, None], -torch.inf) if groups else full).softmax(-1)
        blocks = list(weights(q, k, b, groups, numbers))
        assert max(w.numel() for w in blocks) <= max(numbers, 2 * 3 * 11)
        assert torch.allclose(torch.cat(blocks, 2).double(), full, atol=1e-6)
        assert torch.allclose(received(q, k, b, groups).double(), full.mean((0, 2)), atol=1e-6)


# -- token budgets


class Pool:
    """A token budget from its definition: which rows live, layer by layer and head by head."""

    def __init__(self, policy, kind):
        self.policy, self.kind = policy, kind
        self.alive, self.mass, self.full, self.asked, self.changed = None, {}, False, {}, {}
        self.split = deepcopy(policy.split)
        if isinstance(self.split, CakeSplit):
            self.split._preference = torch.zeros_like(policy.split._preference)

    def visible(self, chunk, ledger):
        n = len(ledger.frame)
        if self.alive is None:
            self.alive = torch.zeros(ledger.layers, ledger.heads, 0, dtype=torch.bool)
        self.alive = torch.cat([self.alive, torch.ones(ledger.layers, ledger.heads, n - self.alive.shape[2], dtype=torch.bool)], 2)
        shown = self.alive.clone()
        if self.kind == "quest":
            self.choose(ledger, chunk.start, shown)
        self.shown = shown
        return shown

    def positions(self, chunk, ledger):
        if self.policy.realign == "none":
            return None
        p = ledger.positions.expand(ledger.layers, ledger.heads, -1, 3).clone()
        pool = self.pool(ledger, chunk.start)
        counts = self.alive[..., pool].sum(2)
        span = -(-int(counts.max()) // ledger.tokens) if len(pool) else 0
        first = chunk.start - min(self.policy.recent, max(0, chunk.start - self.policy.sink)) - span
        sink = ledger.frame < self.policy.sink
        p[:, :, sink, 0] += first - min(self.policy.sink, chunk.start)
        if self.policy.realign == "all" and self.full:
            for layer in range(ledger.layers):
                for head in range(ledger.heads):
                    rows = pool[self.alive[layer, head, pool]]
                    p[layer, head, rows, 0] = (first + torch.arange(len(rows)) // ledger.tokens).float()
        return p

    def pool(self, ledger, start):
        return ((ledger.frame >= self.policy.sink) & (ledger.frame < start - self.policy.recent)).nonzero()[:, 0]

    def after(self, chunk, ledger):
        for layer in range(ledger.layers):
            self.asked[layer] = [*self.asked.get(layer, []), ledger.raw_q[layer].numpy()]
            for i, token in np.ndindex(3, ledger.tokens):
                self.changed[chunk.start + i, token] = (
                    float((ledger.guesses[0][i, token].double() - ledger.result[i, token].double()).norm()) if ledger.guesses else 0
                )
            for head in range(ledger.heads):
                share = ledger.shares(layer, head, self.kind != "flow")
                if self.kind == "h2o" and (layer, head) in self.mass:
                    share[: -3 * ledger.tokens] += self.mass[layer, head]
                if self.kind == "cake":
                    share = share + 200 * ledger.p[layer][head].var(0, correction=0)
                self.mass[layer, head] = share
        if isinstance(self.split, CakeSplit) and chunk.index:
            self.prefer(ledger)
        if self.kind != "quest":
            self.visible(chunk, ledger)
            self.choose(ledger, chunk.start + 3, self.alive)

    def prefer(self, ledger):
        """CAKE's preferences, over the past alone."""
        for layer in range(ledger.layers):
            p = ledger.p[layer][..., : -ledger.p[layer].shape[1]]
            p = (p / p.sum(-1, keepdim=True)).numpy()
            entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1).mean()
            frames = p.reshape(ledger.heads, 3, -1, p.shape[-1]).mean(2)
            shift = frames.var(1).sum(-1).mean()
            self.split._preference[layer] += entropy ** (1 / self.split.tau_dispersion) * shift ** (1 / self.split.tau_shift)

    def choose(self, ledger, start, out):
        pool, n = self.pool(ledger, start), int(self.policy.budget * ledger.tokens)
        rows = {at: pool[self.alive[(*at, pool)]] for at in np.ndindex(ledger.layers, ledger.heads)}
        if max(len(r) for r in rows.values()) <= n:
            return
        self.full = True
        counts = self.split.counts(n, [min(len(rows[layer, h]) for h in range(ledger.heads)) for layer in range(ledger.layers)])
        score = {at: self.score(ledger, *at, r) for at, r in rows.items()}
        for layer, head in rows:
            s = score[layer, head] if self.policy.per_head else np.mean([score[layer, h] for h in range(ledger.heads)], 0)
            best = sorted(range(len(s)), key=lambda i: (-s[i], i))[: counts[layer]]
            out[layer, head, pool] = False
            out[layer, head, rows[layer, head][best]] = True

    def score(self, ledger: Ledger, layer, head, rows):
        mass = self.mass[layer, head][rows].numpy()
        n = len(rows)
        if self.kind in ("snapkv", "cake"):
            return np.array([sum(mass[max(0, i - 2) : i + 3]) / 5 for i in range(n)])
        if self.kind == "flow":
            unit = ledger.raw[layer][rows, head].double().numpy()
            unit /= np.linalg.norm(unit, axis=1, keepdims=True)
            alike = np.exp((unit @ unit.T).mean(1))
            return 0.07 * np.array([max(mass[max(0, i - 3) : i + 4]) for i in range(n)]) - 0.93 * alike / alike.sum()
        if self.kind == "deco":
            return np.array([self.changed[int(ledger.frame[r]), int(r) % ledger.tokens] for r in rows])
        if self.kind in ("expected", "tri"):
            return getattr(self, self.kind)(ledger, layer, head, rows)
        if self.kind == "quest":
            q = ledger.q[layer][:, head].numpy().reshape(3, -1, ledger.q[layer].shape[-1]).mean(1)
            keys, out = ledger.k[layer][rows, head].double().numpy(), np.zeros(n)
            for frame in ledger.frame[rows].unique():
                of = np.flatnonzero((ledger.frame[rows] == frame).numpy())
                for page in (of[i : i + self.policy.scorer.page] for i in range(0, len(of), self.policy.scorer.page)):
                    ends = keys[page].min(0), keys[page].max(0)
                    out[page] = max(np.maximum(one * ends[0], one * ends[1]).sum() for one in q)
                    assert out[page][0] >= (keys[page] @ q.T).max() - 1e-9, "no key exceeds the bound"
            return out
        return mass

    def expected(self, ledger, layer, head, rows):
        """Moments of every query ever asked, and rotations as matrices of 2x2 blocks, position by position."""
        scorer, q = self.policy.scorer, np.concatenate(self.asked[layer])[:, head]
        width, turns = q.shape[1], []
        for ahead in range(3, scorer.horizon + 3, 3):
            for position in ledger.own.double().numpy() + [ahead, 0, 0]:
                turns.append(rotation(position))
        turn, k = np.mean(turns, 0), ledger.k[layer][rows, head].double().numpy()
        logits = k @ turn @ q.mean(0) / width**0.5
        if scorer.covariance:
            spread = turn @ np.cov(q.T, bias=True) @ turn.T
            logits += np.array([x @ spread @ x for x in k]) / (2 * width)
        share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        return share * (np.linalg.norm(ledger.v[layer][rows, head].double().numpy(), axis=1) if scorer.values else 1)

    def tri(self, ledger, layer, head, rows):
        """The published formula in complex numbers, frequency by frequency, on un-rotated keys and their distances in time."""
        half = ledger.raw[layer].shape[-1] // 2
        q, k = np.concatenate(self.asked[layer])[:, head], ledger.raw[layer][rows, head].double().numpy()
        newest, when = ledger.own[:, 0].max().item(), ledger.positions[rows, 0].numpy()
        out, offsets = np.zeros(len(rows)), [2**i for i in range(8)]
        for f, w in enumerate(TIME_FREQUENCIES):
            qf, kf = q[:, f] + 1j * q[:, f + half], k[:, f] + 1j * k[:, f + half]
            centre = qf.mean()
            phase = np.angle(centre) - np.angle(kf)
            out += np.mean([abs(centre) * abs(kf) * np.cos(w * (newest - when + o) + phase) for o in offsets], 0)
            out += (abs(qf).mean() - abs(centre)) * abs(kf)
        return (out - out.mean()) / out.std()


def rotation(position):
    """The rotation of a head's channels at a position of the `rooms` model: pairs (i, i + d/2)."""
    angles = np.concatenate([x * np.array(f) for x, f in zip(position, (TIME_FREQUENCIES, ELEVATION_FREQUENCIES, AZIMUTH_FREQUENCIES), strict=True)])
    c, s = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    return np.block([[c, -s], [s, c]])


CASES = [
    ("h2o", "h2o", []),
    ("snapkv", "snapkv", []),
    ("participative", "deep_forcing", []),
    ("participative", "deep_forcing", ["policy.realign=all", "policy.budget=4.5", "policy.sink=3"]),
    ("flow", "flowcache", []),
    ("quest", "quest", ["policy.scorer.page=4"]),
    ("quest", "quest", ["policy.scorer.page=4", "policy.scorer.queries=last"]),
    ("h2o", "h2o", ["policy.per_head=false", "policy.budget=4"]),
    ("quest", "quest", ["policy.per_head=false", "policy.budget=5.5", "policy.sink=0", "policy.recent=6"]),
    ("snapkv", "snapkv_pyramid", ["policy.split.beta=3"]),
    ("snapkv", "snapkv_cake", ["policy.split.tau_shift=0.1"]),
    ("cake", "cake", []),
    ("deco", "decoprune", []),
    ("deco", "decoprune", ["policy.sink=0", "policy.budget=4.5"]),
    ("deco", "decoprune", ["policy.realign=none", "policy.budget=2"]),
    ("expected", "expected", []),
    ("expected", "expected", ["policy.scorer.covariance=false", "policy.scorer.values=false", "policy.scorer.horizon=4", "policy.budget=4"]),
    ("tri", "triattention", []),
    ("tri", "triattention", ["policy.per_head=false", "policy.budget=4.5", "policy.split.beta=3", "policy/split=pyramid"]),
]


@pytest.mark.parametrize(("kind", "name", "overrides"), CASES, ids=[f"{c[1]}{len(c[2])}" for c in CASES])
def test_budgets_against_full_matrices(kind, name, overrides, backbone, trajectory, roll):
    policy = make_policy(name, *overrides)
    mine = roll(policy)
    window = (policy.sink, policy.recent) if policy.probes else None
    assert close(mine.latents, simulate(backbone, trajectory, Pool(policy, kind), window, policy.rehearses))


SCORED = ["h2o", "snapkv", "flowcache", "quest", "deep_forcing", "snapkv_pyramid", "snapkv_cake", "cake", "expected", "triattention"]


def test_the_control_of_decoprune_is_matched(roll, backbone):
    """The same number of tokens at the same places of the window, of other tokens; and it runs no pass that decoprune does not run."""
    deco, random = roll(make_policy("decoprune")), roll(make_policy("decoprune_random"))
    assert [s.attended_rows for s in deco.stats] == [s.attended_rows for s in random.stats]
    assert [s.bank_bytes_gpu for s in deco.stats] == [s.bank_bytes_gpu for s in random.stats]
    assert not close(deco.latents, random.latents)
    assert not close(random.latents, roll(make_policy("decoprune_random", "policy.scorer.seed=1")).latents)


def test_a_token_of_several_latents_owns_a_square_of_them():
    """Four columns of tokens of 2x2 latents: the latents that lie in a token's square, found by their coordinates."""
    owner = owners(48, Geometry(1, 1, 4, 12, 3, columns=4)).tolist()
    for latent, token in enumerate(owner):
        (y, x), (row, column) = divmod(latent, 8), divmod(token, 4)
        assert 2 * row <= y < 2 * row + 2 and 2 * column <= x < 2 * column + 2
    with pytest.raises(ValueError, match="48 latents a frame for 12 tokens in unknown columns"):
        owners(48, Geometry(1, 1, 4, 12, 3))


@pytest.mark.parametrize("name", SCORED)
def test_unlimited_budget_equals_full(name, roll, known):
    """Bit by bit where keys stay rotated, and no pass before planning puts rows into other slots."""
    mine, full = roll(make_policy(name, "policy.budget=inf")).latents, known("full").latents
    assert close(mine, full)
    assert torch.equal(mine, full) or name in ("flowcache", "deep_forcing", "quest")


@pytest.mark.parametrize("name", ["h2o", "snapkv", "quest", "snapkv_pyramid"])
def test_no_budget_equals_sink_recent(name, roll, known):
    assert torch.equal(roll(make_policy(name, "policy.budget=0")).latents, known("sink_recent", "policy.recent=3").latents)


@pytest.mark.parametrize("name", SCORED)
def test_a_budget_is_never_exceeded_and_the_rest_is_gone(name, roll, backbone):
    g = backbone.geometry
    policy = make_policy(name)
    budget, fixed = int(policy.budget * g.tokens), (policy.sink + policy.recent + 3) * g.tokens
    stats = roll(policy).stats
    assert max(s.attended_rows for s in stats) == budget + fixed, "the budget is used up, and not exceeded"
    rows = 24 * g.tokens if name == "quest" else budget  # Quest drops nothing: chunks 1 to 8 are in the bank, chunk 9 in the window
    kept = stats[-1].bank_bytes_gpu - (g.layers * rows * g.heads * 12 if name != "quest" else 0)  # rows of heads bring their positions
    if policy.raw_keys:
        kept -= (policy.sink + policy.recent) * g.tokens * g.row_bytes
    if policy.split.weights() == [1.0] * g.layers:
        assert kept == rows * g.row_bytes
    else:
        marks = max(s.window_bytes for s in stats) // g.row_bytes - fixed  # a mass (4) and a mark (1) a row and head, absent ones too
        assert kept <= budget * g.row_bytes + g.layers * g.heads * marks * (12 + 5)


def test_a_frame_is_unreachable_once_most_heads_lost_it(roll, backbone):
    last = roll(make_policy("snapkv", "policy.budget=1")).stats[-1]
    lost = set(last.unreachable)
    assert 24 - 3 - 6 <= len(lost) <= 24 - 1 and lost <= set(range(3, 27)), "six rows a head, of 24 frames"


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("h2o", "policy.sink=-1", "policy.sink=-1: use a whole number from 0"),
        ("h2o", "policy.budget=-1", "budget=-1"),
        ("h2o", "policy.scorer.decay=2", "decay=2"),
        ("snapkv", "policy.scorer.kernel=4", "an odd whole number"),
        ("flowcache", "policy.scorer.mix=2", "mix=2"),
        ("quest", "policy.scorer.parts=5", "parts that divide the 18 rows"),
        ("quest", "policy.realign=all", "use realign=sink"),
        ("expected", "policy.realign=sink", "use realign=none"),
        ("decoprune", "policy.scorer.step=1", "step=1, but of 2 passes"),
        ("triattention", "policy.realign=all", "use realign=none"),
        ("snapkv_pyramid", "policy.split.beta=0.1", "beta=0.1"),
        ("snapkv_cake", "policy.split.tau_shift=0", "tau_shift=0"),
        ("heads", "policy.share=2", "share=2"),
        ("heads", "policy.calibrate=0", "calibrate=0"),
    ],
)
def test_bad_fields_are_refused(name, override, message, roll):
    with pytest.raises(ValueError, match=message):
        roll(make_policy(name, override))


# -- layers


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


# -- heads


class Shut:
    """retrieval_only's frames, as the harness chose them, with some shut to some heads; reaches from full matrices."""

    def __init__(self, stats, share, calibrate):
        self.stats, self.share, self.calibrate, self.reach, self.far = stats, share, calibrate, [], None

    def visible(self, chunk, ledger):
        self.start = chunk.start
        shown = torch.isin(ledger.frame, torch.tensor(self.stats[chunk.index].attended, dtype=torch.long)).expand(ledger.layers, ledger.heads, -1).clone()
        self.old = (ledger.frame >= 3) & (ledger.frame < chunk.start - 3)
        if self.far is not None:
            shown &= ~self.old | self.far[..., None]
        self.some = bool((shown & self.old).any())
        return shown

    def positions(self, chunk, ledger):
        return None

    def after(self, chunk, ledger):
        if self.far is not None or not self.some:
            return
        reach = torch.zeros(ledger.layers, ledger.heads, dtype=torch.float64)
        for layer, head in np.ndindex(*reach.shape):
            share = ledger.shares(layer, head)
            sink = share[:-18][ledger.frame[:-18] < 3].sum()
            reach[layer, head] = share[: len(self.old)][self.old].sum() / (1 - sink)
        self.reach.append(reach)
        if len(self.reach) == self.calibrate:
            order = sorted(np.ndindex(*reach.shape), key=lambda at: -float(sum(self.reach)[at]))
            self.far = torch.zeros(reach.shape, dtype=torch.bool)
            for at in order[: round(self.share * reach.numel())]:
                self.far[at] = True


@pytest.mark.parametrize(("share", "calibrate"), [(0.5, 2), (0.34, 1), (0.0, 3)])
def test_heads_against_masks(share, calibrate, backbone, trajectory, roll):
    policy = make_policy(
        "heads", "policy/compressor@policy.inner.compressor=none", f"policy.share={share}", f"policy.calibrate={calibrate}", "policy.inner.retrieved=9"
    )
    mine = roll(policy)
    second = Shut(mine.stats, share, calibrate)
    assert close(mine.latents, simulate(backbone, trajectory, second))
    assert 0 < len(second.reach) == calibrate and second.far.sum() == round(6 * share)


def test_all_heads_equal_the_inner_policy(roll):
    inner = roll(make_policy("worldkv", "policy.unit=frames", "policy.retrieved=18")).latents
    assert torch.equal(roll(make_policy("heads", "policy.share=1.0")).latents, inner)
    assert torch.equal(roll(make_policy("heads", "policy.threshold=0.0")).latents, inner)
    assert not close(roll(make_policy("heads")).latents, inner)


def test_no_head_pays_for_nothing(roll, backbone):
    """With share 0 what is old is only masses and marks; with half of the heads, half of the bytes and those."""
    g = backbone.geometry
    banked = {s: roll(make_policy("heads", f"policy.share={s}")).stats[-1].bank_bytes_gpu for s in (0.0, 0.5)}
    marks = 9 * 10 * g.layers * g.heads * 5  # chunks 1 to 9, ten rows each
    assert banked[0.0] == marks
    assert banked[0.5] == 9 * 10 * g.row_bytes / 2 + marks


def test_heads_around_a_token_budget_and_full(roll, backbone):
    """DuoAttention is heads around full; around a token budget the pool that is rewritten is trimmed anew."""
    g = backbone.geometry
    for inner, rows in (("full", 24 * g.tokens), ("snapkv", 9 * g.tokens)):
        stats = roll(HeadsPolicy(make_policy(inner), share=0.5)).stats
        assert stats[-1].attended_rows == 9 * g.tokens + rows // 2
        held = rows + 3 * g.tokens * (inner == "full")  # a chunk has left the recent window since
        assert stats[-1].bank_bytes_gpu <= held * (g.row_bytes / 2 + g.layers * g.heads * 17)


# -- query, per layer and per head


class Asked:
    """Three whole chunks for every layer or head by its own queries: mean(q) . mean(k), best frame of a chunk."""

    def __init__(self, per):
        self.per, self.differ = per, 0

    def visible(self, chunk, ledger):
        f, start = ledger.frame, chunk.start
        shown = ((f < 3) | (f >= start - 3)).expand(ledger.layers, ledger.heads, -1).clone()
        candidates = list(range(1, (start - 3) // 3))
        votes = np.zeros((ledger.layers, ledger.heads, len(candidates)))
        for layer, head in np.ndindex(ledger.layers, ledger.heads):
            if candidates:
                q = ledger.q[layer][:, head].mean(0)
                of = [[ledger.k[layer][f == 3 * c + i, head].double().mean(0) @ q / len(q) ** 0.5 for i in range(3)] for c in candidates]
                votes[layer, head] = torch.softmax(torch.tensor([max(x) for x in of], dtype=torch.float64), 0)
        sets = set()
        for layer, head in np.ndindex(ledger.layers, ledger.heads):
            vote = votes[layer, head] if self.per == "head" else votes[layer].mean(0)
            best = [candidates[i] for i in np.argsort(-vote, kind="stable")[:3]]
            sets.add(tuple(best))
            for c in best:
                shown[layer, head, f // 3 == c] = True
        self.differ += len(sets) > 1
        return shown

    def positions(self, chunk, ledger):
        return None

    def after(self, chunk, ledger): ...


@pytest.mark.parametrize("queries", ["current", "last"])
@pytest.mark.parametrize("per", ["layer", "head"])
def test_every_head_asks_for_itself(per, queries, backbone, trajectory, roll, known):
    second = Asked(per)
    mine = roll(make_policy(f"query_{per}s", "policy/compressor=none", f"policy.selector.queries={queries}"))
    assert close(mine.latents, simulate(backbone, trajectory, second, (3, 3) if queries == "current" else None))
    assert second.differ > 2, "all choose alike"
    assert max(s.attended_rows for s in mine.stats) == 18 * 6 < max(len(s.attended) for s in mine.stats) * 6 + 18
    everything = roll(make_policy(f"query_{per}s", "policy/compressor=none", "policy.retrieved=inf", "policy.selector.queries=last"))
    assert torch.equal(everything.latents, known("full").latents)


def test_a_long_rollout_stays_within_its_budget(backbone, roll):
    """Bytes and rows stand still once the pool is full."""
    path = make_world(["R90L90R90L90R90L90R90L90"], degrees=10.0).trajectory(0)
    stats = roll(make_policy("snapkv_pyramid"), path=path).stats
    assert len(stats) > 15
    assert len({s.bank_bytes_gpu for s in stats[10:]}) == 1 and len({s.attended_rows for s in stats[10:]}) == 1


def test_quest_moves_what_it_chose_and_rewrites_nothing(backbone, roll):
    """Three times as long a past: the bytes that a chunk moves stay those of its window, whatever lies in the bank."""
    g, path = backbone.geometry, make_world(["R90L90R90L90R90L90R90L90"], degrees=10.0).trajectory(0)
    policy = make_policy("quest", "policy.scorer.page=2")
    stats = roll(policy, path=path).stats
    assert len(stats) > 15 and stats[-1].bank_bytes_gpu >= 2 * stats[8].bank_bytes_gpu
    assert max(s.bytes_moved for s in stats[8:]) <= (9 + 3) * g.frame_bytes, "at most the pool that is chosen, and the frames that leave the window"
    assert len({s.window_bytes for s in stats[8:]}) == 1
