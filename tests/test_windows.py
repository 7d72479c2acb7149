"""Windows and budgets in rows: chunks of any size, sinks that end within a chunk, token counts whose shares are no binary fractions."""

import time
from dataclasses import replace

import pytest
import torch

from backbones.rooms import TinyRoomsBackbone
from harness.cache.bank import KVBank
from harness.cache.stores import GpuStore
from harness.datatypes import KV, Chunk, Geometry
from harness.rollout import rollout
from harness.worlds.poses import integrate, pinhole
from policies.parts.compress.base import share_of
from tests.conftest import make_policy, make_world

WINDOWED = ["worldkv", "worldkv_rebased", "worldkv_release", "retrieval_only", "coverage", "merge", "keydiff", "h2o", "quest", "deep_forcing"]
BOUNDED = ["places", "landmark", "reencode", "capped", "heads", "int4_places_coverage"]


@pytest.fixture(scope="module")
def sized():
    """The tiny backbone with chunks of another size, and a path of whole chunks."""

    def make(chunk: int):
        backbone = TinyRoomsBackbone()
        backbone.geometry = replace(backbone.geometry, chunk=chunk)
        return backbone, make_world(["R90L90R60L60"], hold_frames=4, degrees=10.0, chunk_px=chunk).trajectory(0)

    return make


def run(backbone, path, name, *overrides):
    return rollout(backbone, make_policy(name, *overrides), GpuStore(), path, 0, backbone.encode(path.images)[: backbone.geometry.chunk])


AHEAD = 2  # chunks of the path after the next one


def committed(policy, geometry, chunks, turn=0.0, seconds=None, walk=False):
    """A policy after chunks of noise, turning `turn` degrees a frame, its bank and the next chunk. seconds: of the commits. walk: go somewhere new
    with every chunk, by turns at random and three steps in five."""

    class Nowhere(GpuStore):
        tier = "window"

        def put(self, frame, page):
            super().put(frame, replace(page, k=page.k.clone(), v=page.v.clone()))

    window = Nowhere()
    window.reset(geometry.device)
    policy.reset(geometry)
    bank, size, frames = KVBank(geometry, window, GpuStore(), policy.raw_keys), geometry.chunk, geometry.chunk * (chunks + 1)
    actions = torch.zeros(frames, 6)
    actions[:, 4] = turn
    if walk:
        dice = torch.Generator().manual_seed(7)
        actions[:, 0] = (torch.rand(frames, generator=dice) < 0.6).float()
        actions[:, 4] = (torch.randn(chunks + 1, generator=dice) * 8).repeat_interleave(size)
    actions = torch.cat([actions, actions[: AHEAD * size]])  # what follows is as known as the past
    c2w, intrinsics = integrate(actions, 0.1), pinhole(80.0, (64, 64), len(actions))

    def made(i: int, count: int = 1) -> Chunk:
        at = slice(i * size, (i + count) * size)
        return Chunk(i, i * size, c2w[at], intrinsics[at], actions[at], ahead=lambda more: made(i, 1 + more))

    k, raw, v = torch.randn(3, geometry.layers, 1, size * geometry.tokens, geometry.heads, geometry.head_dim)
    for chunk in map(made, range(chunks)):
        if seconds is not None:
            policy.plan(chunk, bank)
        start = time.process_time()
        policy.commit(chunk, KV(k, raw, v, torch.zeros(size * geometry.tokens, 3), torch.ones(1, size, geometry.tokens, 4)), bank)
        if seconds is not None:
            seconds.append(time.process_time() - start)
    return policy, bank, made(chunks)


@pytest.mark.parametrize("tokens", [1456, 1560, 1872, 116, 880])
@pytest.mark.parametrize(("name", "chunks"), [("worldkv", 6), ("retrieval_only", 3)])
def test_as_many_chunks_fit_at_every_token_count(tokens, name, chunks):
    """Nine frames hold six half chunks or three whole ones, whatever a frame's share is as a float."""
    policy, bank, chunk = committed(make_policy(name), Geometry(1, 1, 2, tokens, 3), 9)
    assert len(policy.plan(chunk, bank).retrieved) == 3 * chunks


def test_a_share_of_tokens_is_rounded_up_once():
    assert [share_of(0.07, 100), share_of(0.25, 1456), share_of(0.25, 6), share_of(0.0, 6), share_of(1.0, 1560)] == [7, 364, 2, 0, 1560]


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("name", WINDOWED + BOUNDED)
def test_chunks_of_any_size(name, chunk, sized):
    """The shipped windows (sink and recent 3) with chunks that they are no multiple of."""
    backbone, path = sized(chunk)
    stats = run(backbone, path, name).stats
    assert all(f < s.start for s in stats for f in s.attended)
    frames = {"worldkv_release": 27, "heads": 24}.get(name, 15)  # these two count whole frames, however compressed
    assert max(s.attended_rows for s in stats) <= (frames + chunk) * backbone.geometry.tokens
    if name in ("worldkv", "worldkv_rebased", "retrieval_only", "coverage", "merge", "keydiff", "reencode", "heads", "quest"):
        assert not any(s.unreachable_frames for s in stats), "a frame is in neither the window nor the candidates"


@pytest.mark.parametrize(("sink", "recent"), [(6, 8), (3, 3), (6, 3), (1, 5), (0, 2)])
def test_a_sink_or_a_recent_window_may_end_within_a_chunk(sink, recent, sized):
    """Frames of a chunk that the sink shows are not brought back a second time, nor cut; the others are, as soon as they left."""
    backbone, path = sized(4)
    policy = ("retrieval_only", f"policy.sink={sink}", f"policy.recent={recent}")
    for s in run(backbone, path, *policy, "policy.retrieved=5").stats:
        fixed = {f for f in range(s.start) if f < sink or f >= s.start - recent}
        assert fixed <= set(s.attended) and not fixed & set(s.retrieved) and len(s.retrieved) <= 5
    full = run(backbone, path, "full").latents
    assert torch.equal(run(backbone, path, *policy, "policy.retrieved=inf").latents, full)
    assert torch.equal(run(backbone, path, "worldkv", *policy[1:], "policy.compressor.ratio=1", "policy.retrieved=inf").latents, full)
    stats = run(backbone, path, "worldkv", *policy[1:]).stats
    assert all(s.stored[f] == 6 for s in stats for f in range(s.start) if f < sink or f >= s.start - recent), "the window's own frames are whole"
    assert any(0 < n < 6 for n in stats[-1].stored), "nothing was compressed: the path tests nothing"


def test_one_frame_a_chunk_leaves_nothing_to_compress(sized):
    """Every chunk is its own anchor frame."""
    backbone, path = sized(1)
    mine, whole = (run(backbone, path, name, "policy.retrieved=6") for name in ("worldkv", "retrieval_only"))
    assert torch.equal(mine.latents, whole.latents)
