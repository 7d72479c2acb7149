"""What the harness asks of a world model. A backbone knows nothing of windows, banks or policies: only the seam."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from harness.datatypes import Chunk, Condition, Geometry
from harness.trajectory import Trajectory


class KVSeam(Protocol):
    """The seam: what a backbone's attention calls, and all that it knows of caches."""

    def __call__(self, layer: int, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"], /) -> Float[Tensor, "b m h d"]:
        """Self-attention of a chunk over its past and itself; q and k un-rotated, after qk-norm."""
        ...

    def cross(self, layer: int, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], v: Float[Tensor, "b n h d"], /) -> Float[Tensor, "b m h d"]:
        """Cross-attention over the tokens of a prompt or an image."""
        ...


class Backbone(ABC):
    """A chunk-autoregressive video diffusion model. Latents are `b f s c` (s = the latent grid, row by row)."""

    geometry: Geometry
    timesteps: tuple[float, ...]  # noise level of every denoising pass, falling; the clean pass at 0 follows
    channels: int  # of a latent
    user: Callable[[], Any] | None = None  # a weak reference to the turn of the session whose state this holds; kept by `harness.turns`
    jumps: bool = False  # whether the camera may be anywhere at the next chunk: not for a model that is steered by moves
    arm: str | None = None  # the memory that its weights were trained on for, where they were
    remembers: bool = False  # whether its state is a memory of what was seen, and not a decoder's or a cache's alone
    repeatable: bool = True  # whether a chunk's clean pass may run again later: not if it leaves more behind than K/V

    def begin(self, trajectory: Trajectory) -> None:
        """A rollout starts: forget the last one's state (a streaming decoder, auxiliary caches) and prepare what all its
        chunks share (prompt, image condition)."""

    @property
    def state_bytes(self) -> int:
        """Bytes of the state that a rollout keeps besides self-attention's K/V, such as a model's own action caches."""
        return 0

    def state(self) -> dict:
        """What chunks leave behind besides self-attention's K/V, between two chunks, for a snapshot: tensors and
        plain values, which later chunks do not change in place. Raises ValueError where a backbone cannot say."""
        name = type(self).__name__
        kept = "keeps state between chunks that it cannot hand over (a streaming decoder, caches of its own)"
        raise ValueError(f"{name} {kept}; it can be neither saved (use snapshot.save=null) nor forked")

    def restore(self, state: dict) -> None:
        """Go on from a `state`, whichever rollout was begun last."""

    @abstractmethod
    def condition(self, trajectory: Trajectory, chunk: Chunk) -> Condition:
        """Everything a chunk's passes share: RoPE positions and network inputs, computed once."""

    @abstractmethod
    def denoise(self, x: Float[Tensor, "b f s c"], t: float, condition: Condition, kv: KVSeam) -> Float[Tensor, "b f s c"]:
        """One pass: noisy latents at level `t` to predicted clean latents x0. `t=0` is the clean pass, the chunk's last: its
        K/V are kept, and so is whatever else a backbone remembers of a chunk."""

    @abstractmethod
    def renoise(self, x0: Float[Tensor, "b f s c"], t: float, noise: Float[Tensor, "b f s c"]) -> Float[Tensor, "b f s c"]:
        """Clean latents back to level `t` with fresh noise."""

    @abstractmethod
    def rope(self, positions: Float[Tensor, "*l n 3"]) -> Callable[..., Tensor]:
        """The rotation of rows at `positions` (t, y, x), for tensors `... n h d`; with `out=`, written there."""

    @abstractmethod
    def encode(self, frames: Float[Tensor, "p 3 y x"]) -> Float[Tensor, "f s c"]:
        """Video frames in [0, 1] to latents."""

    @abstractmethod
    def decode(self, latents: Float[Tensor, "f s c"]) -> Float[Tensor, "p 3 y x"]:
        """Latents of one chunk to video frames in [0, 1], on the CPU. Called chunk by chunk, in order, after `begin`."""

    def roundtrip(self, frames: Float[Tensor, "p 3 y x"]) -> Float[Tensor, "p 3 y x"]:
        """What is left of true frames after the autoencoder: scores against the true view hardly get better. Ends a rollout."""
        return self.decode(self.encode(frames))

    def depth(self, latents: Float[Tensor, "b f s c"]) -> Float[Tensor, "f v u"] | None:
        """Depth along the optical axis, in metres, at the centres of a grid of pixels, as a head of the model's own predicts it from clean
        latents of one chunk; on the CPU. None where it has no such head."""
        return None

    def check_arm(self, arm: str | None, policy: str) -> None:
        """Raises ValueError where a policy of this name needs weights of an arm, and these are others. None: it needs no arm's."""
        if arm is not None and arm != self.arm:
            has = f"has those of the arm {self.arm}" if self.arm else "has no arm's"
            remedy = f"give backbone.arm={arm} (backbone=rooms); where that is missing, train it: python harness/train.py arm={arm}"
            raise ValueError(f"{policy} needs weights of the arm {arm}, {type(self).__name__} {has}; {remedy}")

    def noise(self, generator: torch.Generator) -> Float[Tensor, "1 f s c"]:
        """Noise for one chunk from a CPU generator: the same on every device and for every policy."""
        g = self.geometry
        return torch.randn(1, g.chunk, g.tokens, self.channels, generator=generator).to(g.device)
