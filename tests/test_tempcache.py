"""TempCache, of FAST-AR, against second routes: exact search and explicit groups."""

import re

import pytest
import torch
import torch.nn.functional as F

from harness.cache.attention import dense, reference
from harness.cache.page import Page
from harness.datatypes import Geometry
from policies.parts.members import nearest
from policies.tempcache import TempCachePolicy
from policies.wrappers.ann import Hashing
from tests.conftest import make_policy, make_world
from tests.tolerances import SECOND_ROUTE

G = Geometry(layers=2, heads=3, head_dim=8, tokens=6, chunk=3)
EXACT = Hashing(bits=0, tables=1)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def page(k, t=0.0):
    rows = k.shape[2]
    return Page(k, normal(*k.shape, seed=int(t) + 7), torch.full((len(k), rows, 3), float(t)))


def test_hashing_finds_what_is_near_and_only_that():
    x = normal(500, 64)
    near, far = x + 0.1 * normal(500, 64, seed=1), normal(500, 64, seed=2)
    hashing = Hashing(bits=8, tables=4)
    own = float(hashing.neighbours(hashing.codes(near), hashing.codes(x)).diagonal().float().mean())
    others = float(hashing.neighbours(hashing.codes(far), hashing.codes(x)).float().mean())
    angle = float(torch.acos(F.cosine_similarity(near, x)).mean()) / torch.pi
    assert own == pytest.approx(1 - (1 - (1 - angle) ** 8) ** 4, abs=0.03), "Charikar's probability"
    assert others == pytest.approx(1 - (1 - 0.5**8) ** 4, abs=0.01)
    assert Hashing.neighbours(EXACT.codes(near), EXACT.codes(far)).all(), "no bits: one bucket"


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("mean", [True, False])
def test_groups_are_those_of_an_exact_search_row_by_row(joint, mean):
    """Four frames of noisy copies and novel rows, against dictionaries filled one row at a time in float64."""
    policy = TempCachePolicy(threshold=0.8, representative="mean" if mean else "newest", joint=joint, hashing=EXACT)
    policy.reset(G)
    base = normal(2, 1, 6, 3, 8)
    frames = []
    for t in range(4):
        k = base + 0.25 * normal(*base.shape, seed=10 + t)
        k[:, :, t] = normal(2, 1, 3, 8, seed=20 + t)  # one novel row a frame
        frames.append(page(k, t))
    pool = frames[0]
    for new in frames[1:]:
        pool = policy._take_in(pool, new)
    merged = 0
    for layer in range(2):
        for heads in [range(3)] if joint else [[h] for h in range(3)]:
            pick = list(heads)
            groups = [{"keys": [f], "values": [v], "key": f, "t": 0.0} for f, v in _rows(frames[0], layer, pick)]
            for t, frame in enumerate(frames[1:], 1):
                joined = {}
                known = len(groups)
                for key, value in _rows(frame, layer, pick):
                    scores = [float(F.cosine_similarity(key.flatten(), g["key"].flatten(), dim=0)) for g in groups[:known]]
                    best = max(range(known), key=lambda i: scores[i])
                    if scores[best] >= 0.8:
                        joined.setdefault(best, []).append((scores[best], key, value))
                    else:
                        groups.append({"keys": [key], "values": [value], "key": key, "t": float(t)})
                for i, rows in joined.items():
                    groups[i]["keys"] += [key for _, key, _ in rows]
                    groups[i]["values"] += [value for _, _, value in rows]
                    newest = max(rows, key=lambda row: row[0])[1]
                    groups[i]["key"], groups[i]["t"] = (torch.stack(groups[i]["keys"]).mean(0) if mean else newest), float(t)
            for i, group in enumerate(groups):
                merged += len(group["keys"]) > 1
                mass = pool.mass[layer, i] if pool.mass.dim() == 2 else pool.mass[layer, i, pick[0]]
                t = pool.positions[layer, i, 0] if pool.positions.dim() == 3 else pool.positions[layer, i, pick[0], 0]
                assert mass == len(group["keys"]) and t == group["t"]
                assert torch.allclose(pool.k[layer, 0, i, pick].double(), group["key"], atol=1e-5)
                assert torch.allclose(pool.v[layer, 0, i, pick].double(), torch.stack(group["values"]).mean(0), atol=1e-5)
            rest = pool.mass[layer, len(groups) :] if pool.mass.dim() == 2 else pool.mass[layer, len(groups) :, pick[0]]
            assert not rest.any(), "beyond a head's groups nothing is there"
    assert merged > 10


def _rows(frame, layer, heads):
    return list(zip(frame.k[layer, 0][:, heads].double(), frame.v[layer, 0][:, heads].double(), strict=True))


def test_groups_of_exact_duplicates_change_no_attention():
    """The same rows in every frame, and TempCache's identity: exact, with a sixth of the rows."""
    policy = TempCachePolicy(threshold=0.999)
    policy.reset(G)
    k = normal(2, 1, 6, 3, 8)
    frames = [page(k[:, :, torch.randperm(6, generator=torch.Generator().manual_seed(t))], t) for t in range(6)]
    pool = frames[0]
    for new in frames[1:]:
        pool = policy._take_in(pool, new)
    whole, q = Page.joined(frames), normal(1, 5, 3, 8, seed=3)
    assert pool.rows == 6 and whole.rows == 36
    for layer in range(2):
        out = dense(q, pool.k[layer], pool.v[layer], pool.mass[layer].log())
        assert torch.allclose(out, reference(q, whole.k[layer], whole.v[layer]), atol=1e-5)


def test_a_limit_keeps_the_heaviest_and_of_equals_the_newest():
    policy = TempCachePolicy(threshold=0.99, limit=8 / 6)
    policy.reset(G)
    k = normal(2, 1, 6, 3, 8)
    pool = policy._take_in(policy._take_in(page(k, 0), page(k, 1)), page(normal(2, 1, 6, 3, 8, seed=9), 2))
    assert pool.rows == 8 and pool.mass[0].tolist() == [2.0] * 6 + [1.0] * 2
    assert torch.equal(pool.k[0, 0, 6:], normal(2, 1, 6, 3, 8, seed=9)[0, 0, 4:])


def test_without_a_match_tempcache_is_full(roll, known):
    full = known("full").latents
    for joint in ("true", "false"):
        out = roll(make_policy("tempcache", "policy.threshold=2", f"policy.joint={joint}")).latents
        assert (out - full).abs().max() < SECOND_ROUTE * full.abs().max()


def test_bytes_grow_with_what_is_new(roll, backbone):
    """Round and round the same views, the untrained network's keys repeat: tempcache stands still where full KV grows."""
    path = make_world(["R90L90R90L90R90L90"], degrees=15.0).trajectory(0)
    stats = roll(make_policy("tempcache", "policy.threshold=0.9"), path=path).stats
    bytes_ = [s.bank_bytes_gpu for s in stats]
    half = len(stats) // 2
    assert bytes_[-1] < 1.25 * bytes_[half] and stats[-1].attended_rows < 0.5 * (stats[-1].start + 3) * backbone.geometry.tokens


@pytest.mark.parametrize("override", ["policy.density=0", "policy.block=-1", "policy.hashing.bits=-1"])
def test_wrong_fields_are_refused(override, backbone):
    with pytest.raises(ValueError, match=f"{re.escape(override)}(.0)?: use "):
        make_policy("annsa", override).reset(backbone.geometry)


def test_matching_in_blocks_is_matching():
    new, old = F.normalize(normal(4, 30, 8), dim=-1), F.normalize(normal(4, 50, 8, seed=1), dim=-1)
    there, hashing = normal(4, 50, seed=2) > -0.5, Hashing(bits=2, tables=2)
    whole = nearest(new, old, there, hashing)
    for numbers, most in ((1, 1), (4 * 50 * 7, 7), (4 * 50 * 30, 30)):
        runs: list[int] = []

        class Spied(Hashing):
            def neighbours(self, new, old, runs=runs):
                runs.append(new.shape[1])
                return super().neighbours(new, old)

        for a, b in zip(nearest(new, old, there, Spied(bits=2, tables=2), numbers), whole, strict=True):
            assert torch.allclose(a.float(), b.float(), atol=1e-6)
        assert sum(runs) == 30 and max(runs) == most, "no more cosines exist at once"
    alone = max(float(F.cosine_similarity(new[2, 5], old[2, j], dim=0)) for j in range(50) if there[2, j] and _share(hashing, new[2, 5], old[2, j]))
    assert whole[0][2, 5] == pytest.approx(alone, abs=1e-6)


def _share(hashing, a, b):
    return bool((hashing.codes(a[None]) == hashing.codes(b[None])).any())


@pytest.mark.parametrize("joint", [True, False])
def test_a_limit_says_which_frames_it_lost(joint, backbone, roll):
    """Every row's group followed by hand: a frame is reported once no row of it lives in most layers (or layers and heads)."""
    policy = make_policy("tempcache", "policy.limit=2", "policy.threshold=0.997", f"policy.joint={str(joint).lower()}")
    homes, gone = {}, []

    class Watched(type(policy)):
        def _take_in(self, pool, new):
            homes.setdefault(3, [{i: i for i in range(6)} for _ in range(3 if joint else 6)])
            return super()._take_in(pool, new)

        def _limited(self, page, target):
            homes[self._next] = [dict(enumerate(x)) for x in target.tolist()]
            out = super()._limited(page, target)
            for frame in homes:
                for g, rows in enumerate(homes[frame]):
                    v = (page.v[g, 0].flatten(1), out.v[g, 0].flatten(1)) if joint else (page.v[g // 2, 0, :, g % 2], out.v[g // 2, 0, :, g % 2])
                    at = [next((j for j in range(len(v[1])) if torch.equal(v[1][j], row) and row.any()), None) for row in v[0]]
                    homes[frame][g] = {i: at[n] for i, n in rows.items() if at[n] is not None}
            return out

        def plan(self, chunk, bank):
            gone.append({f for f, groups in homes.items() if sum(bool(rows) for rows in groups) < 0.5 * len(groups)})
            return super().plan(chunk, bank)

    watched = Watched(**{f: getattr(policy, f) for f in ("sink", "recent", "threshold", "representative", "joint", "limit", "hashing")})
    stats = roll(watched).stats
    assert gone[-1], "nothing was lost: the path tests nothing"
    assert [set(s.unreachable) for s in stats] == [lost - {3} for lost in gone], "the pool lies under frame 3"
