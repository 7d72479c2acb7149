"""The context buffer under random plans: what it serves is what was committed, wherever it lies."""

import pytest
import torch

from backbones.rope import rotate
from harness.cache.bank import KVBank
from harness.cache.context import ContextBuffer
from harness.cache.stores import GpuStore, PinnedStore
from harness.datatypes import Chunk, Condition, Geometry, Plan
from harness.policy import CachePolicy

GEOMETRY = Geometry(layers=2, heads=2, head_dim=4, tokens=5, chunk=3)


def rope(positions):
    angles = positions[..., None, :2] * 0.1
    cos, sin = angles.cos(), angles.sin()
    return lambda x, out=None: rotate(x, cos, sin, out)


class Spy(CachePolicy):
    """Records what attention is given."""

    def plan(self, chunk, bank):
        raise AssertionError("the test plans")

    def attend(self, q, k, v, site):
        self.seen[site.layer] = (k.clone(), v.clone(), site.context_rows)
        return super().attend(q, k, v, site)


def rows_as_set(k, v):
    return sorted(torch.cat([k[0].flatten(1), v[0].flatten(1)], 1).tolist())


def close(a, b):
    return torch.allclose(torch.tensor(a), torch.tensor(b), atol=1e-5)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("store", [GpuStore, PinnedStore])
@pytest.mark.parametrize("seed", range(4))
def test_random_plans(seed, store, raw):
    g, rng = GEOMETRY, torch.Generator().manual_seed(seed)
    context = ContextBuffer(g, 1, rope, 10**4)
    bank = KVBank(g, context, store(), raw)
    policy = Spy()
    truth = {}  # frame -> (raw k, v, positions) per layer, as kept

    def rand(*shape):
        return torch.randn(*shape, generator=rng)

    def integer(n):
        return int(torch.randint(n, (1,), generator=rng))

    for c in range(14):
        chunk = Chunk(c, 3 * c, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))
        have = [f for f in bank.frames if integer(3)]
        order = [have[i] for i in torch.randperm(len(have), generator=rng).tolist()]
        times = tuple(float(integer(50)) for _ in order) if raw and integer(2) else None
        parts = {f: torch.stack([torch.randperm(bank.rows(f), generator=rng)[:3].sort().values for _ in range(g.layers)]) for f in order if not integer(3)}
        plan = Plan(tuple(order), times, start=float(integer(50)) if times else None, rows=parts)
        positions = torch.cat([torch.full((15, 1), 1.0) * (3 * c) + torch.arange(3).repeat_interleave(5)[:, None], rand(15, 2)], 1)
        context.assemble(plan, bank, chunk, Condition(positions, ()), policy)
        policy.seen, new = {}, []
        for clean in (False, True):
            context.begin_pass(0, clean)
            for layer in range(g.layers):
                q, k, v = rand(3, 1, 15, 2, 4)
                context.kv(layer, q, k, v)
                new = new[: layer * clean] + [(k, v)]
        shift = 0 if plan.start is None else plan.start - chunk.start
        for layer in range(g.layers):
            keys, values = [], []
            for i, frame in enumerate(plan.frames):
                k, v, p = truth[frame][layer]
                if frame in parts:
                    k, v, p = k[:, parts[frame][layer]], v[:, parts[frame][layer]], p[parts[frame][layer]]
                p = p.clone()
                if plan.times:
                    p[:, 0] += plan.times[i] - frame
                keys.append(rope(p)(k))
                values.append(v)
            own = positions.clone()
            own[:, 0] += shift
            k, v = new[layer]
            expected = rows_as_set(torch.cat([*keys, rope(own)(k)], 1), torch.cat([*values, v], 1))
            seen_k, seen_v, context_rows = policy.seen[layer]
            assert context_rows == sum(3 if f in parts else bank.rows(f) for f in plan.frames)
            assert close(rows_as_set(seen_k, seen_v), expected)
        bank.append(chunk, context.chunk_kv())
        for i, frame in enumerate(chunk.frames):
            part = slice(5 * i, 5 * i + 5)
            truth[frame] = [(k[:, part], v[:, part], positions[part]) for k, v in new]
        if integer(2):
            victim = bank.frames[integer(len(bank.frames))]
            bank.drop(victim)
            del truth[victim]
        frames = tuple(f for f in chunk.frames[1:] if bank.rows(f))
        if integer(2) and len(frames) == 2:
            keep = torch.stack([torch.randperm(10, generator=rng)[:4].sort().values for _ in range(g.layers)])
            bank.replace(frames, keep)
            joined = [[torch.cat([truth[f][layer][j] for f in frames], 1 if j < 2 else 0) for j in range(3)] for layer in range(g.layers)]
            truth[frames[0]] = [(k[:, r], v[:, r], p[r]) for (k, v, p), r in zip(joined, keep, strict=True)]
            del truth[frames[1]]
        assert set(bank.frames) == set(truth)


def test_rows_that_stay_are_not_moved():
    """A full window with one chunk in and one out: nothing is copied but the evicted chunk."""
    g = GEOMETRY
    context = ContextBuffer(g, 1, rope, 10**4)
    bank = KVBank(g, context, GpuStore(), False)
    policy = Spy()
    policy.seen = {}
    for c in range(6):
        chunk = Chunk(c, 3 * c, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))
        plan = Plan.of_frames([f for f in bank.frames if f >= 3 * c - 6])
        context.assemble(plan, bank, chunk, Condition(torch.rand(15, 3), ()), policy)
        before = {f: s.copy() for f, s in context._slots.items()}
        context.begin_pass(0, True)
        for layer in range(g.layers):
            context.kv(layer, *torch.randn(3, 1, 15, 2, 4))
        bank.append(chunk, context.chunk_kv())
        moved = bank.bytes_moved
        if c >= 3:
            assert (context._slots[3 * c - 3] == before[3 * c - 3]).all()
            assert moved == (c - 2) * 15 * g.row_bytes
            assert context.nbytes <= 1.25 * 45 * g.row_bytes


def test_plans_that_cannot_be_served_are_refused():
    g = GEOMETRY
    context = ContextBuffer(g, 1, rope, 10**4)
    bank = KVBank(g, context, GpuStore(), False)
    chunk = Chunk(0, 0, torch.eye(4).repeat(3, 1, 1), torch.ones(3, 4), torch.zeros(3, 6))
    condition = Condition(torch.rand(15, 3), ())
    with pytest.raises(ValueError, match="only remembered frames"):
        context.assemble(Plan.of_frames([7]), bank, chunk, condition, Spy())
    with pytest.raises(ValueError, match="raw_keys"):
        context.assemble(Plan((), start=3.0), bank, chunk, condition, Spy())
    with pytest.raises(ValueError, match="twice"):
        Plan.of_frames([1, 1])
    with pytest.raises(ValueError, match="one time per frame"):
        Plan((1, 2), times=(0.0,))
    with pytest.raises(ValueError, match=r"rows or heads of frames \[3\]"):
        Plan((1, 2), rows={3: torch.zeros(2, 1, dtype=torch.long)})
