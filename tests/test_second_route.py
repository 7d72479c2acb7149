"""The chunk loop against routes that share nothing with it: masks over the full history, and teacher forcing."""

import pytest
import torch

from harness.cache.attention import dense, reference
from harness.training.teacher import TeacherForcing
from harness.worlds.chunks import chunks_of
from tests.conftest import make_policy
from tests.tolerances import SECOND_ROUTE, TEACHER_FORCING


class History:
    """A seam that keeps all rows ever committed, exact and in order, and masks what a plan leaves out."""

    def __init__(self, backbone):
        self.backbone, self.k, self.v, self.frame = backbone, [], [], []
        self.layers = backbone.geometry.layers

    def start(self, condition, attended, kept):
        self.rotate, self.attended, self.kept = self.backbone.rope(condition.positions), set(attended), kept
        self.new = []

    def __call__(self, layer, q, k, v):
        q, k = self.rotate(q), self.rotate(k)
        self.new = self.new[:layer] + [(k, v)]
        past = len(self.k)
        keys = torch.cat([*(x[layer] for x in self.k), k], 1)
        values = torch.cat([*(x[layer] for x in self.v), v], 1)
        mask = torch.ones(q.shape[1], keys.shape[1], dtype=torch.bool)
        for i in range(past):
            tokens = k.shape[1] // 3
            frame, part = self.frame[i], slice(i * tokens, (i + 1) * tokens)
            mask[:, part] = frame in self.attended
            if frame in self.attended and frame in self.kept:
                mask[:, part] = self.kept[frame][layer]
        return reference(q, keys, values, mask)

    def commit(self, frames):
        tokens = self.new[0][0].shape[1] // 3
        for i, frame in enumerate(frames):
            part = slice(i * tokens, (i + 1) * tokens)
            self.k.append([k[:, part] for k, _ in self.new])
            self.v.append([v[:, part] for _, v in self.new])
            self.frame.append(frame)


def keep_masks(history, chunk, ratio):
    """World Compression once more, from the paper's formula: mean cosine to every anchor key, lowest stay."""
    masks = {}
    for frame in chunk.frames[1:]:
        masks[frame] = []
        for layer in range(history.layers):
            anchor = history.k[chunk.start][layer][0].flatten(1).double()
            keys = history.k[frame][layer][0].flatten(1).double()
            cosine = torch.nn.functional.cosine_similarity(keys[:, None], anchor[None], dim=-1).mean(1)
            mask = torch.zeros(len(keys), dtype=torch.bool)
            mask[cosine.argsort()[: -(-int(ratio * 100) * len(keys) // 100)]] = True
            masks[frame].append(mask)
    return masks


@pytest.mark.parametrize("name", ["full", "sliding", "sink_recent", "worldkv", "retrieval_only", "compression_only", "random"])
def test_rollout_equals_masked_full_history(name, backbone, trajectory, roll):
    mine = roll(make_policy(name))
    compressed = name in ("worldkv", "compression_only", "random")
    history, latents, masks = History(backbone), [], {}
    forced = backbone.encode(trajectory.images)[:3]
    import hashlib

    with torch.no_grad():
        for chunk, stats in zip(chunks_of(trajectory, backbone.geometry), mine.stats, strict=True):
            condition = backbone.condition(trajectory, chunk)
            recent = set(range(chunk.start - 3, chunk.start))
            history.start(condition, stats.attended, {f: m for f, m in masks.items() if f not in recent})
            if chunk.index == 0:
                x0 = forced[None]
            else:
                digest = hashlib.sha256(f"0/{trajectory.name}/{chunk.index}".encode()).digest()
                rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
                x = torch.randn(1, 3, 6, 4, generator=rng)
                for i, t in enumerate(backbone.timesteps):
                    x0 = backbone.denoise(x, t, condition, history)
                    if i + 1 < len(backbone.timesteps):
                        t = backbone.timesteps[i + 1]
                        x = (1 - t) * x0 + t * torch.randn(1, 3, 6, 4, generator=rng)
            backbone.denoise(x0, 0.0, condition, history)
            history.commit(chunk.frames)
            if compressed and chunk.index > 0:
                masks |= keep_masks(history, chunk, 0.25)
            latents.append(x0[0])
    error = (torch.cat(latents) - mine.latents).abs().max()
    assert error < SECOND_ROUTE * mine.latents.abs().max()


def test_teacher_forcing_equals_the_cache(backbone, trajectory):
    """One training step over four chunks gives what the cache serves chunk by chunk."""
    from harness.cache.bank import KVBank
    from harness.cache.context import ContextBuffer
    from harness.cache.stores import GpuStore

    g = backbone.geometry
    chunks = chunks_of(trajectory, g)[:4]
    conditions = [backbone.condition(trajectory, c) for c in chunks]
    torch.manual_seed(0)
    clean, noisy = torch.randn(2, 1, 12, g.tokens, backbone.channels)
    policy = make_policy("full")
    policy.reset(g)
    context = ContextBuffer(g, 1, backbone.rope, 10**6)
    bank = KVBank(g, context, GpuStore(), policy.raw_keys)
    served = []
    with torch.no_grad():
        for c, condition in zip(chunks, conditions, strict=True):
            context.assemble(policy.plan(c, bank), bank, c, condition, policy)
            part = slice(c.start, c.start + 3)
            context.begin_pass(0, False)
            served.append(backbone.denoise(noisy[:, part], 0.7, condition, context))
            context.begin_pass(1, True)
            backbone.denoise(clean[:, part], 0.0, condition, context)
            policy.commit(c, context.chunk_kv(), bank)
        positions = torch.stack([c.positions for c in conditions]).view(1, 12, g.tokens, 3)
        rays = torch.cat([c.inputs[0] for c in conditions], 1)
        x = torch.cat([clean[:, :-3], noisy[:, 3:]], 1)
        levels = torch.cat([torch.zeros(1, 9), torch.full((1, 9), 0.7)], 1)
        seam = TeacherForcing(positions, 3 * g.tokens)
        forced = backbone.network(x, levels, torch.cat([rays[:, :-3], rays[:, 3:]], 1), seam)[:, 9:]
    assert (forced - torch.cat(served[1:], 1)).abs().max() < TEACHER_FORCING * forced.abs().max()


def test_dense_equals_reference():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 3, 8) for n in (5, 11, 11))
    assert torch.allclose(dense(q, k, v), reference(q, k, v), atol=1e-6)
