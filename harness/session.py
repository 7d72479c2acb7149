"""A rollout between two chunks: all that the next one depends on, and what came out so far."""

import hashlib
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.bank import KVBank
from harness.cache.context import ContextBuffer
from harness.datatypes import Chunk, ChunkStats, Trajectory
from harness.policy import CachePolicy


class FrameBuffer:
    """Frames of known number, written as they come into memory that is taken once: joining pieces at the end would take it
    twice, and a long rollout would seem to leak."""

    def __init__(self, length: int) -> None:
        self._length, self._used = length, 0
        self._whole = torch.empty(0)

    def add(self, part: Float[Tensor, "n *any"]) -> None:
        end = self._used + len(part)
        if self._whole.dim() != part.dim() or end > len(self._whole):
            grown = torch.zeros(max(self._length, end), *part.shape[1:], dtype=part.dtype)
            grown[: self._used] = self.made if self._used else 0
            self._whole = grown
        self._whole[self._used : end] = part
        self._used = end

    @property
    def made(self) -> Tensor:
        return self._whole[: self._used]


@dataclass
class Session:
    """done: chunks. noise: fingerprint of all the noise that was drawn."""

    backbone: Backbone
    policy: CachePolicy
    context: ContextBuffer
    bank: KVBank
    trajectory: Trajectory
    frames: FrameBuffer
    latents: FrameBuffer
    stats: list[ChunkStats] = field(default_factory=list)
    noise: str = ""
    done: int = 0

    def drew(self, noise: Tensor) -> None:
        self.noise = hashlib.sha256(self.noise.encode() + noise.cpu().numpy().tobytes()).hexdigest()[:16]

    def add(self, chunk: Chunk, frames: Float[Tensor, "p 3 y x"], latents: Float[Tensor, "f s c"]) -> None:
        """A chunk is made. Raises FloatingPointError when it is NaN or infinite."""
        if not torch.isfinite(latents).all():
            raise FloatingPointError(f"{self.trajectory.name}: NaN or infinity in chunk {chunk.index}; check weights and precision")
        self.frames.add(frames)
        self.latents.add(latents.cpu())
        self.done = chunk.index + 1
