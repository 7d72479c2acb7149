"""The chunk loop: one policy, one backbone, one trajectory. Everything else in the project serves this page."""

import hashlib
import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from harness.again import Encoder
from harness.backbone import Backbone
from harness.bank import KVBank
from harness.context import ContextBuffer
from harness.policy import CachePolicy
from harness.stores import Store
from harness.types import Chunk, ChunkStats, Geometry, Rollout, Trajectory


@torch.no_grad()
def rollout(
    backbone: Backbone,
    policy: CachePolicy,
    store: Store,
    trajectory: Trajectory,
    seed: int,
    forced: Float[Tensor, "f s c"] | None = None,
    observe: Callable[[ChunkStats], None] = lambda stats: None,
) -> Rollout:
    """Generate a trajectory under a policy. Chunks within `forced` latents only run their clean pass.

    Raises FloatingPointError when the model produces NaN or infinity, ValueError when trajectory and backbone disagree.
    """
    g = backbone.geometry
    chunks = chunks_of(trajectory, g)
    policy.reset(g)
    backbone.begin(trajectory)
    context = ContextBuffer(g, 1, backbone.rope, limit_rows=len(chunks) * g.chunk * g.tokens)
    bank = KVBank(g, context, store, policy.raw_keys)
    again = Encoder(backbone, trajectory, chunks, context, bank)
    given = 0 if forced is None else len(forced) // g.chunk
    frames, latents, stats, fingerprint = [], [], [], hashlib.sha256()
    peak = _PeakMemory(g.device)
    for chunk in chunks:
        stored = tuple(bank.rows(f) for f in range(chunk.start))
        clock = _Clock(g.device)
        moved, rotated = bank.bytes_moved, context.rows_rotated
        plan = policy.plan(chunk, bank)
        clock.lap("plan")
        again.serve(plan, policy)
        condition = backbone.condition(trajectory, chunk)
        context.assemble(plan, bank, chunk, condition, policy)
        clock.lap("assemble")
        is_forced = chunk.index < given
        if is_forced:
            assert forced is not None
            x0 = forced[chunk.start : chunk.start + g.chunk][None].to(g.device, torch.float32)
        else:
            rng = _generator(seed, trajectory.name, chunk.index)
            draws = [backbone.noise(rng) for _ in backbone.timesteps]  # all before the first pass: a copy to the GPU waits for it
            fingerprint.update(draws[0].cpu().numpy().tobytes())
            x0 = x = draws[0]
            for step, t in enumerate(backbone.timesteps):
                context.begin_pass(step, clean=False)
                x0 = backbone.denoise(x, t, condition, context)
                if step + 1 < len(backbone.timesteps):
                    x = backbone.renoise(x0, backbone.timesteps[step + 1], draws[step + 1])
        context.begin_pass(len(backbone.timesteps), clean=True)
        backbone.denoise(x0, 0.0, condition, context)
        clock.lap("passes")
        policy.commit(chunk, context.chunk_kv(x0), bank)
        clock.lap("commit")
        frames.append(backbone.decode(x0[0]))
        clock.lap("decode")
        if not torch.isfinite(x0).all():
            raise FloatingPointError(f"{trajectory.name}: NaN or infinity in chunk {chunk.index}; check weights and precision")
        latents.append(x0[0].cpu())
        history = set(range(chunk.start)) - set(plan.frames) - plan.candidates
        stats.append(
            ChunkStats(
                chunk=chunk.index,
                start=chunk.start,
                frames=g.chunk,
                frames_px=len(frames[-1]),
                forced=is_forced,
                attended_rows=context.attended_rows,
                window_bytes=context.rows * g.row_bytes,
                bank_bytes_gpu=bank.nbytes("gpu"),
                bank_bytes_cpu=bank.nbytes("cpu"),
                bytes_moved=bank.bytes_moved - moved,
                rows_rotated=context.rows_rotated - rotated,
                unreachable_frames=len(history),
                state_bytes=backbone.state_bytes,
                peak_bytes=peak.read(context.nbytes + bank.nbytes("gpu") + backbone.state_bytes),
                **clock.laps,
                retrieved=plan.retrieved,
                attended=plan.frames,
                unreachable=tuple(sorted(history)),
                stored=stored,
                taken=tuple(plan.rows[f].shape[1] if f in plan.rows else stored[f] for f in plan.frames),
            )
        )
        observe(stats[-1])
    video = torch.cat(frames)
    generated = torch.arange(len(video)) >= g.frames_px(given * g.chunk)
    return Rollout(video, generated, tuple(stats), fingerprint.hexdigest()[:16], torch.cat(latents))


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


class _Clock:
    """Wall time of the parts of a chunk; on a GPU each lap waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.laps: dict[str, float] = {}
        self._last = self._now()

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def lap(self, name: str) -> None:
        now = self._now()
        self.laps[f"seconds_{name}"] = now - self._last
        self._last = now


class _PeakMemory:
    """Peak device memory of a rollout: the allocator's figure on a GPU, the cache's own bytes elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._cuda, self._peak = device.type == "cuda", 0
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(device)

    def read(self, cache_bytes: int) -> int:
        self._peak = torch.cuda.max_memory_allocated() if self._cuda else max(self._peak, cache_bytes)
        return self._peak
