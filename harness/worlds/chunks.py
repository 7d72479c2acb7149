"""A path cut into chunks. Latent frame `i` takes the pose of video frame `stride_px * i`; paths end at a whole chunk."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harness.datatypes import Chunk, Geometry
from harness.trajectory import Overlap, Trajectory
from harness.worlds.poses import onward


def chunk_count(path: Trajectory, g: Geometry) -> int:
    """Whole chunks of a path."""
    return -(-len(path.c2w) // g.stride_px) // g.chunk


def chunk_at(path: Trajectory, g: Geometry, index: int) -> Chunk:
    """Chunk `index` of a path. Raises ValueError where the path ends before."""
    if index >= chunk_count(path, g):
        found = f"{path.name}: chunk {index} of {g.chunk} latent frames is not within the {len(path.c2w)} video frames of the path"
        raise ValueError(f"{found}; use a longer trajectory, or give poses or actions to `step`")
    first, last = index * g.chunk, (index + 1) * g.chunk - 1
    at = _video_frames(g, first, last)
    views = range(0, last * g.stride_px + 1, g.stride_px)  # of all latent frames so far
    covisible = partial(path.overlap, views[first:], views) if path.overlap else None
    visible = partial(path.overlap.surface, views[first:], views) if path.overlap else None
    return Chunk(index, first, path.c2w[at], path.intrinsics[at], path.actions[at], covisible, visible, ahead=partial(_with_next, path, g, index))


def shown_at(path: Trajectory, g: Geometry, index: int) -> Callable[[], Float[Tensor, "f r 3"]] | None:
    """Computes the true surface points that the frames of chunk `index` show; None for a path through a world without geometry."""
    at = _video_frames(g, index * g.chunk, (index + 1) * g.chunk - 1)
    return partial(path.overlap.shown, range(at.start, at.stop, at.step)) if path.overlap else None


def true_views(path: Trajectory, g: Geometry, index: int) -> Float[Tensor, "p 3 y x"] | None:
    """The true views of the video frames of chunk `index`, where they are known."""
    first, end = g.frames_px(index * g.chunk), g.frames_px((index + 1) * g.chunk)
    return None if path.reference is None or len(path.reference) < end else path.reference[first:end]


def _with_next(path: Trajectory, g: Geometry, index: int, count: int) -> Chunk:
    """Chunk `index` and the `count` after it, as far as the path is known, as one."""
    first, last = index * g.chunk, min(index + 1 + count, chunk_count(path, g)) * g.chunk - 1
    at = _video_frames(g, first, last)
    return Chunk(index, first, path.c2w[at], path.intrinsics[at], path.actions[at])


def _video_frames(g: Geometry, first: int, last: int) -> slice:
    """Those whose poses latent frames `first` to `last` take. A slice: indices would copy, and cost more than the loop around them."""
    return slice(first * g.stride_px, last * g.stride_px + 1, g.stride_px)


def chunks_of(path: Trajectory, g: Geometry) -> list[Chunk]:
    """All chunks of a path."""
    return [chunk_at(path, g, i) for i in range(chunk_count(path, g))]


def led_on(
    path: Trajectory,
    g: Geometry,
    done: int,
    c2w: Float[Tensor, "p 4 4"] | None,
    actions: Float[Tensor, "p 6"] | None,
    intrinsics: Float[Tensor, "p 4"] | None,
    overlap: Overlap | None = None,
    truth: Float[Tensor, "p 3 y x"] | None = None,
) -> Trajectory:
    """The path up to chunk `done`, and from there one chunk along these poses or actions; what was known of its future is gone.

    Poses are made of actions where the path says how far a key moves (`metres`), actions are zero where only poses are given,
    intrinsics stay those of the last frame. overlap, truth: true co-visibility of the
    path so led on and its true views, where they are known. Raises ValueError for what is no whole chunk, and for actions whose poses nobody knows.
    """
    start = g.frames_px(done * g.chunk)
    count = g.frames_px((done + 1) * g.chunk) - start
    for name, x in (("c2w", c2w), ("actions", actions), ("intrinsics", intrinsics)):
        if x is not None and len(x) != count:
            raise ValueError(f"step: {len(x)} {name} are given, chunk {done} of {path.name} has {count} video frames; give one a video frame")
    if c2w is None:
        if actions is None or not path.metres:
            raise ValueError(f"step: actions of {path.name} say nothing of the pose; give c2w too, or start the path with `metres` (a key moves a frame)")
        c2w = onward(path.c2w[max(start - 1, 0)], actions, path.metres)
    if start == 0 and intrinsics is None:
        intrinsics = path.intrinsics[:1].expand(count, 4)
    ahead = {
        "c2w": c2w,
        "actions": torch.zeros(count, 6) if actions is None else actions,
        "intrinsics": path.intrinsics[start - 1 : start].expand(count, 4) if intrinsics is None else intrinsics,
    }
    return replace(path, overlap=overlap, reference=_shown(path, start, truth), **_joined(path, start, ahead))


def led_back(path: Trajectory, g: Geometry, done: int, frames: Sequence[int]) -> Trajectory:
    """The path up to chunk `done`, and from there one chunk that shows the views of earlier video frames again.

    The camera jumps: actions are zero, and a backbone that is steered by moves cannot follow. True co-visibility stays known.
    Raises ValueError for frames that are no whole chunk, or that were not made yet.
    """
    start = g.frames_px(done * g.chunk)
    if len(frames) != (count := g.frames_px((done + 1) * g.chunk) - start):
        raise ValueError(f"revisit: {len(frames)} frames are given, chunk {done} of {path.name} has {count} video frames; give one a video frame")
    if strange := [f for f in frames if not 0 <= f < start]:
        raise ValueError(f"revisit: {path.name} has the video frames 0 to {start - 1} so far, not {', '.join(map(str, strange))}")
    views = torch.tensor(frames)
    ahead = {"c2w": path.c2w[views], "actions": torch.zeros(len(views), 6), "intrinsics": path.intrinsics[views]}
    overlap = path.overlap and _SeenBefore(path.overlap, start, tuple(frames))
    truth = None if path.reference is None else path.reference[views]
    return replace(path, overlap=overlap, reference=_shown(path, start, truth), **_joined(path, start, ahead))


def _shown(path: Trajectory, start: int, truth: Float[Tensor, "p 3 y x"] | None) -> Float[Tensor, "n 3 y x"] | None:
    """The true views of a path that goes on from frame `start` with these, where all of them are known."""
    return None if path.reference is None or truth is None else torch.cat([path.reference[:start], truth.to(path.reference)])


@dataclass(frozen=True)
class _SeenBefore:
    """The overlap of a path whose video frames from `start` on show what `frames` show."""

    of: Overlap
    start: int
    frames: tuple[int, ...]

    def __call__(self, rows: Sequence[int], columns: Sequence[int]) -> Float[Tensor, "n m"]:
        return self.of(self._really(rows), self._really(columns))

    def surface(self, rows: Sequence[int], columns: Sequence[int]) -> Bool[Tensor, "n s m"]:
        return self.of.surface(self._really(rows), self._really(columns))

    def shown(self, views: Sequence[int]) -> Float[Tensor, "n s 3"]:
        return self.of.shown(self._really(views))

    def depth(self, rows: Sequence[int], size: tuple[int, int]) -> Float[Tensor, "n y x"]:
        return self.of.depth(self._really(rows), size)

    def _really(self, frames: Sequence[int]) -> list[int]:
        return [self.frames[i - self.start] if i >= self.start else i for i in frames]


def _joined(path: Trajectory, start: int, ahead: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.cat([getattr(path, name)[:start], x.to(path.c2w)]) for name, x in ahead.items()}
