"""What a chunk cost and what is held after it: the columns of `ChunkStats`."""

import torch

from harness.backbone import Backbone
from harness.cache.kv_cache import KVCache
from harness.datatypes import Chunk, Plan
from harness.outcome import ChunkStats
from harness.system.meters import Clock, PeakMemory, host_bytes, open_files, seconds_waited

TIERS = ("gpu", "cpu", "disk")
PARTS = dict.fromkeys(("seconds_plan", "seconds_assemble", "seconds_passes", "seconds_commit", "seconds_decode"), 0.0)


class Account:
    """Kept by a session beside its chunks. clock: laps of the parts of a chunk."""

    def __init__(self, device: torch.device) -> None:
        self.clock, self._peak = Clock(device), PeakMemory(device)
        self._moved = self._rotated = 0
        self._waited = 0.0

    def begin(self) -> None:
        """A rollout begins, which is no fork of another."""
        self._peak.reset()

    def open(self, cache: KVCache) -> None:
        """A chunk begins: what was moved and rotated before is not its own."""
        self._moved, self._rotated = cache.bank.bytes_moved, cache.window.rows_rotated
        self._waited = seconds_waited()
        self.clock.start()

    def close(
        self,
        chunk: Chunk,
        plan: Plan,
        taken: dict[int, int],
        stored: tuple[int, ...] | None,
        frames_px: int,
        forced: bool,
        cache: KVCache,
        backbone: Backbone,
        scratch: int,
    ) -> ChunkStats:
        """A chunk has ended. taken: rows that the window took of each frame. stored: rows of every past frame, if the trace is kept.
        scratch: bytes that the policy keeps beside window and bank. Bytes are those of all ranks that share the rollout; the peak is the greatest
        of any rank, and that of all together beside it."""
        window, bank, g = cache.window, cache.bank, backbone.geometry
        peak = self._peak.read(window.nbytes + bank.nbytes("gpu") + backbone.state_bytes + scratch)
        own = [window.bytes_in("window"), *(bank.nbytes(tier) for tier in TIERS), bank.bytes_moved - self._moved, backbone.state_bytes, scratch]
        window_bytes, on_gpu, on_cpu, on_disk, moved, state, scratches, host, peaks = g.ranks.sum(torch.tensor([*own, host_bytes(), peak])).tolist()
        return ChunkStats(
            chunk=chunk.index,
            start=chunk.start,
            frames=len(chunk.frames),
            frames_px=frames_px,
            forced=forced,
            attended_rows=window.attended_rows,
            rows_rotated=window.rows_rotated - self._rotated,
            unreachable_frames=chunk.start - len(plan.candidates) - sum(f not in plan.candidates for f in plan.frames),
            peak_bytes=int(g.ranks.max(torch.tensor(peak))),
            peak_bytes_all=peaks,
            window_bytes=window_bytes,
            bank_bytes_gpu=on_gpu,
            bank_bytes_cpu=on_cpu,
            bank_bytes_disk=on_disk,
            bytes_moved=moved,
            state_bytes=state,
            scratch_bytes=scratches,
            host_bytes=host,
            **PARTS | self.clock.take(chunk.index),
            retrieved=plan.retrieved,
            attended=plan.frames,
            unreachable=None if stored is None else tuple(sorted(set(range(chunk.start)) - set(plan.frames) - plan.candidates)),
            stored=stored,
            taken=tuple(taken[f] for f in plan.frames),
            open_files=open_files(),
            seconds_waited=seconds_waited() - self._waited,
        )
