"""What a policy sees, as frozen dataclasses (the path is in `harness.trajectory`, pages are in `harness.cache.page`).

Shape letters, everywhere: `b` rollouts that share a trajectory and therefore a plan, `f` latent frames, `s` tokens per
frame, `n` context rows, `m` rows of the current chunk, `h` heads, `d` head dim, `l` layers. K/V is always `b n h d`,
and `l b n h d` where all layers travel together. A *frame* is a latent frame; names of video frames end in `_px`.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.system.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Geometry:
    """What a cache must know of a network: sizes, precision, and how many video frames a latent frame stands for.

    heads: that this process holds. Where several ranks share a rollout, each holds as many, and the last of them may hold some that are not the
    model's: they are zero throughout. What is decided from all heads is decided by `sum_over_heads` and `mean_over_heads`.
    """

    layers: int
    heads: int
    head_dim: int
    tokens: int  # per latent frame
    chunk: int  # latent frames denoised together
    stride_px: int = 1  # video frames per latent frame, the first excepted, which is one
    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cpu")
    columns: int = 0  # of a latent frame's grid of tokens, which lie row by row; 0: unknown
    ranks: Ranks = ALONE  # that share a rollout
    model_heads: int = 0  # of the model, on whichever rank; 0: as many as `heads`

    @property
    def own_heads(self) -> int:
        """How many of this rank's heads are the model's: its first ones."""
        return max(0, min(self.heads, (self.model_heads or self.heads) - self.ranks.rank * self.heads))

    def sum_over_heads(self, x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
        """The sum along `dim`, which counts this rank's heads, over all heads of the model: the same on every rank."""
        return self.ranks.sum(x.narrow(dim, 0, self.own_heads).sum(dim))

    def mean_over_heads(self, x: Float[Tensor, "..."], dim: int) -> Float[Tensor, "..."]:
        """As `sum_over_heads`."""
        return self.sum_over_heads(x, dim) / (self.model_heads or self.heads)

    def check_alone(self, who: str) -> None:
        """Raise ValueError where several ranks share a rollout, for what would hold other rows on other ranks, or others for another number of them."""
        if self.ranks.size > 1:
            raise ValueError(f"{who} works in one process only, and {self.ranks.size} ranks share this rollout; use backbone.parallel=1")

    @property
    def row_bytes(self) -> int:
        """Bytes of K and V of one token in all layers, of this rank's heads."""
        return 2 * self.layers * self.heads * self.head_dim * self.dtype.itemsize

    @property
    def frame_bytes(self) -> int:
        return self.tokens * self.row_bytes

    def frames_px(self, frames: int) -> int:
        """Video frames of the first `frames` latent frames: a causal codec's first latent frame is one video frame."""
        return 1 + (frames - 1) * self.stride_px if frames else 0


@dataclass(frozen=True)
class Chunk:
    """What is known of a chunk before it is generated. Poses are one per latent frame, OpenCV camera-to-world.

    ahead: gives the chunk together with so many of the next ones, as far as the path is known: a longer chunk without any truth of what it shows.
    Where a camera is led by hand nothing follows; a recall probe stands in no path before it is taken.
    covisible: computes `overlap`, when it is read, and visible `surface`. trial: how well the chunk's true views would be met if it attended to
    these stored frames: PSNR in dB of the model's first guess. Only policies that say `tries` have it, of chunks that are generated and whose truth
    is known; each call is a pass of the network. probing: the plan that is asked for is that of the probe pass, which
    shows a policy the chunk's own queries before it plans (`CachePolicy.probes`).
    """

    index: int
    start: int  # first latent frame
    c2w: Float[Tensor, "f 4 4"]
    intrinsics: Float[Tensor, "f 4"]
    actions: Float[Tensor, "f 6"]
    covisible: Callable[[], Float[Tensor, "f g"]] | None = None
    visible: Callable[[], Bool[Tensor, "f s g"]] | None = None
    probing: bool = False
    ahead: Callable[[int], "Chunk"] | None = None
    trial: Callable[[Sequence[int]], float] | None = None

    @property
    def overlap(self) -> Float[Tensor, "f g"] | None:
        """Share of each frame's view that is truly co-visible with each frame of the trajectory so far, the chunk's own included. Only
        worlds with geometry have it (None), only the `oracle` selector may read it, and reading it takes the time of some frames' rendering."""
        return None if self.covisible is None else self.covisible()

    @property
    def surface(self) -> Bool[Tensor, "f s g"] | None:
        """Which of the true surface points that each frame of the chunk shows (rays on a grid) each frame of the trajectory so far shows
        too, occlusion included. As `overlap`: for the `oracle` selector alone."""
        return None if self.visible is None else self.visible()

    @property
    def frames(self) -> tuple[int, ...]:
        return tuple(range(self.start, self.start + len(self.c2w)))


@dataclass(frozen=True)
class Condition:
    """What a backbone derives from a chunk once, for all passes: RoPE positions of its rows and network inputs."""

    positions: Float[Tensor, "m 3"]  # (t, y, x); t in latent frames, y and x in the backbone's own units
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class KV:
    """Keys and values of the rows of one chunk in all layers, from its clean pass.

    k is rotated at the rows' own positions, k_raw is not (after qk-norm). positions: (t, y, x). latents: the clean ones that
    the pass was given. guesses: the clean latents that each denoising pass before it predicted, in order, the last of them `latents`. Of a
    chunk that was given: what the passes make of its latents under their noise, or None unless the policy wants it (`rehearses`).
    given: whether the chunk's latents were given to the model, and not made by it.
    points: computes the true surface points that rays on a grid through each frame's view meet, in the world's coordinates; only worlds with
    geometry have it, and only policies that say so in their name may read it. Of chunks that were made, never of one to come.
    depth: computes what the backbone's own head makes of `latents`: depth along the optical axis of each frame, in metres, at the centres of a
    grid of pixels; None where the backbone has no such head.
    """

    k: Float[Tensor, "l b m h d"]
    k_raw: Float[Tensor, "l b m h d"]
    v: Float[Tensor, "l b m h d"]
    positions: Float[Tensor, "m 3"]
    latents: Float[Tensor, "b f s c"] | None = None
    guesses: Float[Tensor, "p b f s c"] | None = None
    points: Callable[[], Float[Tensor, "f r 3"]] | None = None
    depth: Callable[[], Float[Tensor, "f v u"] | None] | None = None
    given: bool = False


@dataclass(frozen=True)
class Plan:
    """Which stored latent frames the next chunk attends to, and where RoPE places them.

    frames: pages in the order of the window. times: temporal position of each of them; None keeps their own.
    start: temporal position of the chunk's first frame; None keeps its own. rows: for frames that are only attended to in
    part, which of their stored rows, per layer or per head (-1: none); the others stay in the bank. pools: for frames whose rows are
    taken together with those of other frames, these frames, itself the first: `rows` then counts over the rows of all. seen: for frames that only some
    layers or heads attend to, which ones; the others pass over the frame's rows. candidates: frames that could have been
    chosen but were not; what is in neither is reported as unreachable history. retrieved: the part of `frames` that a
    selector chose, for the trace. soon: frames that the plans after this one will likely bring back, the most urgent first: stores may fetch them
    meanwhile, and nothing else follows from it. Frames that the bank remembers by their latents alone are encoded again for the plan, each
    chunk of them in the context of what the plan has before it (`harness.cache.reencode`). again: chunks that are so encoded although the bank has
    their rows, which it keeps.
    """

    frames: tuple[int, ...]
    times: tuple[float, ...] | None = None
    start: float | None = None
    rows: Mapping[int, Int[Tensor, "l n *h"]] = field(default_factory=dict)
    pools: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    seen: Mapping[int, Bool[Tensor, "l h"]] = field(default_factory=dict)
    candidates: frozenset[int] = frozenset()
    retrieved: tuple[int, ...] = ()
    soon: tuple[int, ...] = ()
    again: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if len(set(self.frames)) != len(self.frames):
            raise ValueError(f"a plan attends to a frame twice: {self.frames}")
        if self.times is not None and len(self.times) != len(self.frames):
            raise ValueError(f"a plan of {len(self.frames)} frames has {len(self.times)} times: give one time per frame")
        if unknown := (self.rows.keys() | self.seen.keys()) - set(self.frames):
            raise ValueError(f"a plan names rows or heads of frames {sorted(unknown)}, which it does not attend to")
        if wrong := [f for f, frames in self.pools.items() if f not in self.rows or frames[0] != f or len(set(frames) & set(self.frames)) > 1]:
            raise ValueError(f"a plan takes frames {sorted(wrong)} together with others; name rows for each, itself first, and the others nowhere else")

    def fingerprint(self) -> int:
        """63 bits that tell plans apart by their frames and places."""
        told = repr((self.frames, self.times, self.start, sorted(self.candidates), self.retrieved, sorted(self.again)))
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big") >> 1

    @staticmethod
    def of_frames(frames: list[int] | tuple[int, ...], candidates: set[int] | frozenset[int] = frozenset()) -> "Plan":
        return Plan(tuple(frames), candidates=frozenset(candidates))


@dataclass(frozen=True)
class Site:
    """Where in the network an attention call happens."""

    layer: int
    step: int  # which pass of the chunk
    clean: bool  # the pass at t = 0, whose K/V are kept
    context_rows: int  # the first rows of k and v; the rest is the chunk itself
    chunk: int
    cross: bool = False  # cross-attention: the rows are a prompt's tokens, none of them context
    bias: Float[Tensor, "*h n"] | None = None  # log of the rows' masses, to be added to their logits; None: all are one
    groups: tuple[tuple[Int[Tensor, "g"], Int[Tensor, "r"]], ...] = ()  # heads that see the same rows, and these rows; (): all see all
    probe: bool = False  # the pass before planning: nothing of it is kept but what a policy notes of its queries
    slots: Mapping[int, np.ndarray] = field(default_factory=dict)  # where among k and v each frame's rows lie, the chunk's own included
    raw_q: Float[Tensor, "b m h d"] | None = None  # the queries before RoPE, after qk-norm
    positions: Float[Tensor, "m 3"] | None = None  # where they were rotated
    rope: Callable[[Float[Tensor, "*l n 3"]], Callable[..., Tensor]] | None = None  # the backbone's rotation, for rows `... n h d`
