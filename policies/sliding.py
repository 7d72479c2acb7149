"""The newest frames and nothing else."""

from dataclasses import dataclass

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Natural


@dataclass
class SlidingPolicy(CachePolicy):
    """Pure FIFO over the newest `recent` frames: fast, and forgets (WorldKV, arXiv 2605.22718,
    section 5, "sliding window"; Self-Forcing)."""

    recent: Natural = 15  # frames before the chunk: 18 with the chunk itself, the paper's window

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames([f for f in bank.frames if f >= chunk.start - self.recent])

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        for frame in bank.frames:
            if frame <= chunk.frames[-1] - self.recent:
                bank.drop(frame)
