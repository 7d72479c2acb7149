"""Token budgets against a second route: all rows, explicit masks, full attention matrices in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch

from backbones.rooms_network import AZIMUTH_FREQUENCIES, ELEVATION_FREQUENCIES, TIME_FREQUENCIES
from harness.cache.attention import groups_of, received, weights
from policies.parts.split.cake import CakeSplit
from tests.conftest import make_policy
from tests.ledger import Ledger, close, simulate

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
