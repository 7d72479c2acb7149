"""The chunk loop: one policy, one backbone, one trajectory. Everything else in the project serves this page."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.bank import KVBank
from harness.cache.context import ContextBuffer
from harness.cache.reencode import Reencoder
from harness.cache.stores import PackedStore
from harness.datatypes import Chunk, ChunkStats, Geometry, Plan, Rollout, Trajectory
from harness.policy import CachePolicy
from harness.session import FrameBuffer, Session
from harness.snapshot.snapshot import NO_SNAPSHOT, Snapshot
from harness.snapshot.state_bytes import state_bytes
from harness.system.meters import Clock, PeakMemory, host_bytes, open_files

TRACED = 1500  # latent frames; the trace of every past frame at every chunk grows with their square


@torch.no_grad()
def rollout(
    backbone: Backbone,
    policy: CachePolicy,
    store: PackedStore,
    trajectory: Trajectory,
    seed: int,
    forced: Float[Tensor, "f s c"] | None = None,
    observe: Callable[[ChunkStats], None] = lambda stats: None,
    snapshot: Snapshot = NO_SNAPSHOT,
) -> Rollout:
    """Generate a trajectory under a policy. Chunks within `forced` latents only run their clean pass.

    snapshot: whether to go on from a saved session, to stop early and to save. The result has the saved chunks too.
    Raises FloatingPointError when the model produces NaN or infinity, ValueError when trajectory and backbone disagree.
    """
    g = backbone.geometry
    chunks = chunks_of(trajectory, g)[: snapshot.chunks]
    policy.reset(g)
    backbone.begin(trajectory)
    context = ContextBuffer(g, 1, backbone.rope, limit_rows=len(chunks) * g.chunk * g.tokens)
    bank = KVBank(g, context, store, policy.raw_keys, policy.codec)
    reencoder = Reencoder(backbone, trajectory, chunks, context, bank)
    latent_frames = len(chunks) * g.chunk
    session = Session(backbone, policy, context, bank, trajectory, FrameBuffer(g.frames_px(latent_frames)), FrameBuffer(latent_frames))
    snapshot.begin(session, len(chunks))
    given = 0 if forced is None else len(forced) // g.chunk
    clock, peak, plan = Clock(g.device), PeakMemory(g.device), None
    for chunk in chunks[session.done :]:
        stored = tuple(bank.rows(f) for f in range(chunk.start)) if latent_frames <= TRACED else None
        moved, rotated = bank.bytes_moved, context.rows_rotated
        clock.start()
        is_forced, draws = chunk.index < given, []
        if is_forced:
            assert forced is not None
            x0 = forced[chunk.start : chunk.start + g.chunk][None].to(g.device, torch.float32)
        else:
            rng = _generator(seed, trajectory.name, chunk.index)
            draws = [backbone.noise(rng) for _ in backbone.timesteps]  # all before the first pass: a copy to the GPU waits for it
            session.drew(draws[0])
            x0 = draws[0]
        condition = backbone.condition(trajectory, chunk)
        if policy.probes and chunk.start:
            sketch = policy.plan(replace(chunk, probing=True), bank)
            clock.lap(chunk.index, "plan")
            reencoder.serve(sketch, policy)
            context.assemble(sketch, bank, chunk, condition, policy)
            clock.lap(chunk.index, "assemble")
            context.begin_pass(0, clean=False, probe=True)
            # given latents at the least noisy level: a pass at t = 0 would move some backbones' own caches on
            backbone.denoise(x0, backbone.timesteps[-1 if is_forced else 0], condition, context)
            clock.lap(chunk.index, "passes")
        if plan is None:
            plan = policy.plan(chunk, bank)
            clock.lap(chunk.index, "plan")
            bank.prefetch(context.absent(plan, bank))
        reencoder.serve(plan, policy)
        taken = context.assemble(plan, bank, chunk, condition, policy)
        clock.lap(chunk.index, "assemble")
        if not is_forced:
            x = x0
            for step, t in enumerate(backbone.timesteps):
                context.begin_pass(step, clean=False)
                x0 = backbone.denoise(x, t, condition, context)
                if step + 1 < len(backbone.timesteps):
                    x = backbone.renoise(x0, backbone.timesteps[step + 1], draws[step + 1])
        context.begin_pass(len(backbone.timesteps), clean=True)
        backbone.denoise(x0, 0.0, condition, context)
        clock.lap(chunk.index, "passes")
        policy.commit(chunk, context.chunk_kv(x0), bank)
        clock.lap(chunk.index, "commit")
        coming = None
        if policy.plans_ahead and not policy.probes and chunk.index + 1 < len(chunks):  # its pages come while this chunk is decoded
            coming = policy.plan(chunks[chunk.index + 1], bank)
            clock.lap(chunk.index + 1, "plan")
            bank.prefetch(context.absent(coming, bank))
        frames = backbone.decode(x0[0])
        clock.lap(chunk.index, "decode")
        session.add(chunk, frames, x0[0])
        changed = {"bytes_moved": bank.bytes_moved - moved, "rows_rotated": context.rows_rotated - rotated}
        about = {"chunk": chunk.index, "start": chunk.start, "frames": g.chunk, "frames_px": len(frames), "forced": is_forced}
        session.stats.append(
            ChunkStats(**about, **changed, **_held(bank, context, backbone, policy, peak), **clock.take(chunk.index), **_seen(plan, taken, stored, chunk))
        )
        observe(session.stats[-1])
        plan = coming
    snapshot.end(session)
    video = session.frames.made
    generated = torch.arange(len(video)) >= g.frames_px(given * g.chunk)
    return Rollout(video, generated, tuple(session.stats), session.noise, session.latents.made)


def _held(bank: KVBank, context: ContextBuffer, backbone: Backbone, policy: CachePolicy, peak: PeakMemory) -> dict[str, int]:
    """Columns of what is held after a chunk."""
    bank_bytes = {f"bank_bytes_{tier}": bank.nbytes(tier) for tier in ("gpu", "cpu", "disk")}
    scratch = state_bytes(policy)
    return bank_bytes | {
        "scratch_bytes": scratch,
        "attended_rows": context.attended_rows,
        "window_bytes": context.rows * backbone.geometry.row_bytes,
        "state_bytes": backbone.state_bytes,
        "peak_bytes": peak.read(context.nbytes + bank.nbytes("gpu") + backbone.state_bytes + scratch),
        "host_bytes": host_bytes(),
        "open_files": open_files(),
    }


def _seen(plan: Plan, taken: dict[int, int], stored: tuple[int, ...] | None, chunk: Chunk) -> dict:
    """Columns of what a chunk attended to. stored: rows of every past frame, if the trace is kept."""
    lost = chunk.start - len(plan.candidates) - sum(f not in plan.candidates for f in plan.frames)
    return {
        "retrieved": plan.retrieved,
        "attended": plan.frames,
        "taken": tuple(taken[f] for f in plan.frames),
        "unreachable_frames": lost,
        "unreachable": None if stored is None else tuple(sorted(set(range(chunk.start)) - set(plan.frames) - plan.candidates)),
        "stored": stored,
    }


def chunks_of(trajectory: Trajectory, g: Geometry) -> list[Chunk]:
    """Split a trajectory into whole chunks. Latent frame `i` takes the pose of video frame `stride_px * i`."""
    at = torch.arange(0, len(trajectory.c2w), g.stride_px)
    count = len(at) // g.chunk
    if count == 0:
        raise ValueError(f"{trajectory.name}: {len(trajectory.c2w)} video frames are less than one chunk of {g.chunk} latent frames; use a longer trajectory")
    chunks = []
    for i in range(count):
        part = at[i * g.chunk : (i + 1) * g.chunk]
        overlap = None if trajectory.overlap is None else trajectory.overlap[i * g.chunk : (i + 1) * g.chunk]
        chunks.append(Chunk(i, i * g.chunk, trajectory.c2w[part], trajectory.intrinsics[part], trajectory.actions[part], overlap))
    return chunks


def _generator(seed: int, name: str, chunk: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{chunk}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
