"""Every chunk attends to everything."""

from dataclasses import dataclass

from harness.cache.bank import KVBank
from harness.datatypes import Chunk, Plan
from harness.policy import CachePolicy


@dataclass
class FullPolicy(CachePolicy):
    """Full KV: attend to the whole past. Quality's reference; its cost grows with the rollout (WorldKV, arXiv 2605.22718, section 5, "full KV")."""

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames(bank.frames)
