"""Every chunk attends to everything."""

from dataclasses import dataclass

from harness.bank import KVBank
from harness.policy import CachePolicy
from harness.types import Chunk, Plan


@dataclass
class FullPolicy(CachePolicy):
    """Full KV: attend to the whole past. Quality's reference; its cost grows with the rollout (WorldKV, section 5, "full KV")."""

    def plan(self, chunk: Chunk, bank: KVBank) -> Plan:
        return Plan.of_frames(bank.frames)
