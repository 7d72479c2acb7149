"""The first frames and the newest."""

from dataclasses import dataclass

from harness.cache.bank import KVBank
from harness.datatypes import KV, Chunk, Plan
from harness.policy import CachePolicy
from harness.settings.ranges import Natural


@dataclass
class SinkRecentPolicy(CachePolicy):
    """Attention sink plus a recent window (StreamingLLM, arXiv 2309.17453; the default of the LingBot and LongLive code): the control
    without retrieval at the same window size."""

    sink: Natural = 3
    recent: Natural = 12

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames([f for f in bank.frames if f < self.sink or f >= chunk.start - self.recent])

    def commit(self, chunk: Chunk, kv: KV, bank: KVBank) -> None:
        bank.append(chunk, kv)
        for frame in bank.frames:
            if self.sink <= frame <= chunk.frames[-1] - self.recent:
                bank.drop(frame)
