"""What a rollout leaves: video frames, what recall probes showed, and the cost of every chunk."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ChunkStats:
    """Cost and memory of one chunk. Seconds, bytes and counts; `forced` chunks run the clean pass only.

    retrieved, attended, unreachable: frames. stored: rows kept a layer of every past frame when the chunk was planned.
    taken: rows that the window took of each attended frame. unreachable and stored grow with the past: rollouts of more
    than `session.TRACED` frames leave them out (None); their numbers stay.
    """

    chunk: int
    start: int
    frames: int
    frames_px: int
    forced: bool
    attended_rows: int
    window_bytes: int  # rows of the context buffer in use, all layers
    bank_bytes_gpu: int
    bank_bytes_cpu: int
    bytes_moved: int  # between window, tiers and devices, for this chunk
    rows_rotated: int  # stored rows whose RoPE was applied again
    unreachable_frames: int
    state_bytes: int  # of the backbone besides the window: action caches, prompt K/V
    peak_bytes: int
    seconds_plan: float
    seconds_assemble: float
    seconds_passes: float
    seconds_commit: float
    seconds_decode: float
    retrieved: tuple[int, ...]
    attended: tuple[int, ...]
    unreachable: tuple[int, ...] | None = ()
    stored: tuple[int, ...] | None = ()
    taken: tuple[int, ...] = ()
    bank_bytes_disk: int = 0
    host_bytes: int = 0  # resident memory of the process after the chunk, whatever it is used for; 0: unknown
    open_files: int = 0
    scratch_bytes: int = 0  # what the policy keeps beside window and bank: scores, summaries, descriptors
    peak_bytes_all: int = 0  # of all ranks that share the rollout, where `peak_bytes` is the greatest rank's
    seconds_waited: float = 0.0  # of `seconds`: the main thread was ready, and other work had the cores

    @property
    def seconds(self) -> float:
        return self.seconds_plan + self.seconds_assemble + self.seconds_passes + self.seconds_commit + self.seconds_decode


@dataclass(frozen=True)
class ProbeView:
    """What a recall probe showed: before `chunk` was made, a fork showed the views of chunk `target`, whose video frames are `frames`.

    gap: chunks since these views were last seen. metres: from where the camera was. retrieved: what the policy brought back.
    aside: metres and degrees from the target's views, where the fork looked from beside them; truth: the true views from there.
    audit: what is shown with these pages replaced, by what they are replaced by; unaudited: why they cannot be.
    """

    chunk: int
    target: int
    gap: int
    metres: float
    frames: tuple[int, ...]
    shown: Float[Tensor, "p 3 y x"]
    retrieved: tuple[int, ...]
    aside: tuple[float, float] | None = None
    truth: Float[Tensor, "p 3 y x"] | None = None
    audit: Mapping[str, Float[Tensor, "p 3 y x"]] = field(default_factory=dict)
    unaudited: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """Video frames in [0, 1] and the cost of every chunk. generated: which frames are the model's own."""

    frames: Float[Tensor, "p 3 y x"]
    generated: Bool[Tensor, "p"]
    stats: tuple[ChunkStats, ...]
    noise: str  # fingerprint of the noise that was drawn
    latents: Float[Tensor, "f s c"] = field(repr=False, default_factory=lambda: torch.empty(0))
