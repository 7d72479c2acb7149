"""`world=videos`: videos that other systems made, with the paths that they were to follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.settings.ranges import Angle, Natural, Positive, Share, Size, Weight
from harness.trajectory import RevisitPair, Trajectory
from harness.worlds.base import World
from harness.worlds.films import Film, read_film, same_shape
from harness.worlds.frusta import reach
from harness.worlds.layouts import LAYOUTS, layout_of
from harness.worlds.layouts.clip import Clip, Reading, Track
from harness.worlds.poses import pinhole, resample
from harness.worlds.revisits import Tolerance

ALIKE = 0.5  # a true frame that is this much nearer to a video's first frame than the first one is shows a cut at the start


@dataclass(frozen=True)
class Scored:
    """A video as a task that is done: its frames, which of them the system made, and the path with pairs and true views. shown: how many frames
    the file has; where it holds the system's own part alone, true ones were put before them."""

    task: Trajectory
    frames: Float[Tensor, "n 3 y x"]
    generated: Bool[Tensor, "n"]
    shown: int


class VideosWorld(World):
    """Every video below `folder` that another system made (`harness.worlds.layouts`), with poses or actions, and true views where there are any.

    layout: auto, plain, mind, memobench or wrbench. truth: a benchmark's own data (poses, true videos), or a folder of true films laid out as
    `folder`. size: rows and columns to compare at; None: each video's own. fov: degrees of the picture's width, where no file tells. path_fps:
    poses a second, where that is not one a frame. offset: frames of the path before a video's first one, where its start was cut off.
    step: metres of a pressed key a frame, where actions are all there is. intrinsics_size: of the picture that intrinsics in pixels are of;
    None: the video's. fps: of videos that do not say. convention, direction, min_gap, overlap, tolerances, depth: as of `RecordedWorld`.
    Raises FileNotFoundError or ValueError for a folder without videos; what is wrong with one video is raised by `scored`, in a line.
    """

    def __init__(
        self,
        folder: str,
        layout: Literal["auto", "plain", "mind", "memobench", "wrbench"],
        truth: str | None,
        size: Size | None,
        fov: Angle,
        fps: Positive,
        path_fps: Positive | None,
        offset: Natural,
        step: Positive,
        intrinsics_size: Size | None,
        min_gap: Natural,
        overlap: Share,
        metres_tolerance: Weight,
        degrees_tolerance: Weight,
        depth: Positive | None = None,
        convention: Literal["opencv", "opengl"] | None = None,
        direction: Literal["c2w", "w2c"] | None = None,
    ) -> None:
        root, true = Path(folder).expanduser(), Path(truth).expanduser() if truth else None
        for name, given in (("folder", root), ("truth", true)):
            if given is not None and not given.is_dir():
                raise FileNotFoundError(f"world.{name}={given} is no folder")
        if not 0 < fov < 180:
            raise ValueError(f"world.fov={fov}; use an angle between 0 and 180 degrees")
        if fps <= 0 or (path_fps is not None and path_fps <= 0) or offset < 0:
            raise ValueError(f"world.fps={fps}, world.path_fps={path_fps}, world.offset={offset}; use frame rates above 0 and an offset of 0 or more")
        self.size = (size[0], size[1]) if size else None
        self.fov, self.fps, self.path_fps, self.offset = fov, fps, path_fps, offset
        self.tolerance = Tolerance(min_gap, overlap, metres_tolerance, degrees_tolerance, depth, recorded=True)
        self.layout = layout_of(root, layout)
        reading = Reading(convention, direction, (intrinsics_size[0], intrinsics_size[1]) if intrinsics_size else None, step)
        self.clips = tuple(LAYOUTS[self.layout].clips(root, true, reading))
        if not any(clip.video for clip in self.clips):
            raise FileNotFoundError(f"{folder} holds no video (mp4, webm, mov, a folder frames/ of pictures, frames.npy)")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(clip.name for clip in self.clips)

    def about(self) -> Sequence[str]:
        missing = [clip.name for clip in self.clips if clip.video is None]
        lines = [f"{len(self.clips)} videos, laid out as {self.layout}"]
        return lines + ([f"{len(missing)} of {len(self.clips)} videos are missing: {', '.join(missing[:5])}{', ...' * (len(missing) > 5)}"] if missing else [])

    def files(self, index: int) -> Sequence[Path]:
        """What a video's scores depend on: its own files and the true film's, whatever lies beside them, and the files that its path is read from."""
        clip = self.clips[index]
        own = [path for path in (clip.video, clip.truth) if path is not None]
        pictures = [p for path in own if path.is_dir() for p in path.iterdir()]
        beside = [p for path in own for p in path.parent.iterdir() if p.is_file()]
        return list(dict.fromkeys([*own, *pictures, *beside, *(p for p in clip.inputs if p.is_file())]))

    def trajectory(self, index: int) -> Trajectory:
        """The path of a video, from its first frame on: what another model may be sent along."""
        return self.scored(index).task

    def scored(self, index: int) -> Scored:
        """A video and its task. Raises ValueError or OSError that say in a line what does not fit."""
        clip = self.clips[index]
        if clip.video is None:
            raise FileNotFoundError(f"{clip.name}: its video is missing")
        film = read_film(clip.video, self.size)
        size = (film.frames.shape[-2], film.frames.shape[-1])
        track = clip.track(size)
        if track.c2w is None:
            return self._mirrored(clip, film, size)
        truth = self._truth(clip, size)
        frames, context = film.frames, 0
        if track.context and len(frames) <= len(track.c2w) - track.context:  # the system's own part alone
            if truth is None:
                raise FileNotFoundError(f"{clip.name}: the video begins after {track.context} true frames, and the true film is not there")
            frames, context = torch.cat([truth[: track.context], frames]), track.context
        elif track.context:
            context = track.context
        at = self._at(clip, track, len(frames), film.fps or self.fps, truth, frames)
        c2w = track.c2w[at.long()] if torch.equal(at, at.round()) else resample(track.c2w, at)
        nearest = at.round().long()
        intrinsics = pinhole(self.fov, size, len(at))
        if track.intrinsics is not None:
            pixels = track.intrinsics * torch.tensor([size[1], size[0]] * 2)
            intrinsics = pixels.expand(len(track.c2w), 4)[nearest]
        horizontal = 2 * torch.rad2deg(torch.atan(size[1] / 2 / intrinsics[0, 0])).item()
        aspect = (size[0] / intrinsics[0, 1] / (size[1] / intrinsics[0, 0])).item()
        pairs, miss = self.tolerance.reaching(reach(c2w)).returns(c2w, horizontal, 1, aspect=aspect)
        true = None if truth is None else truth[self._true_frames(clip, nearest, len(truth))]
        return self._done(clip, film, frames, c2w, intrinsics, pairs, miss, true, max(1, context))

    def _true_frames(self, clip: Clip, poses: Int[Tensor, "n"], count: int) -> Int[Tensor, "n"]:
        """The frames of a true film of `count` frames that show these poses."""
        if clip.spread:  # over the film as over the poses
            return torch.linspace(0, count - 1, len(poses)).round().long()
        if int(poses.max()) >= count:
            raise ValueError(
                f"{clip.name}: the true film has {count} frames, and the video shows the path up to pose {int(poses.max())}: one frame a pose is needed"
            )
        return poses

    def _mirrored(self, clip: Clip, film: Film, size: tuple[int, int]) -> Scored:
        """A way out and the same way back, whose poses nobody wrote down: frame m - 1 - i is to be seen again in frame m + i, in the middle of 2 m."""
        count = len(film.frames)
        middle = count // 2
        if count % 2 or middle < 2:
            raise ValueError(f"{clip.name}: the way back is as long as the way out, and {count} frames are no two halves")
        gap = self.tolerance.min_gap
        pairs = tuple(
            RevisitPair(middle - 1 - i, middle + i, 0 if middle - 1 - i > middle // 2 else middle - 1, 0.0, 0.0) for i in range(middle) if 2 * i + 1 >= gap
        )
        miss = "" if pairs else f"the video has {count} frames, and a revisit comes {gap} after the first visit (world.min_gap) at the earliest"
        return self._done(clip, film, film.frames, torch.eye(4).repeat(count, 1, 1), pinhole(self.fov, size, count), pairs, miss, None, 1)

    def _done(
        self,
        clip: Clip,
        film: Film,
        frames: Tensor,
        c2w: Tensor,
        intrinsics: Tensor,
        pairs: tuple[RevisitPair, ...],
        miss: str,
        truth: Tensor | None,
        given: int,
    ) -> Scored:
        actions = torch.zeros(len(frames), 6)
        task = Trajectory(clip.name, c2w, intrinsics, actions, frames[:given], pairs, film.fps or self.fps, reference=truth, no_pairs=miss)
        return Scored(task, frames, torch.arange(len(frames)) >= given, len(film.frames))

    def _truth(self, clip: Clip, size: tuple[int, int]) -> Float[Tensor, "p 3 y x"] | None:
        if clip.truth is None:
            return None
        film = read_film(clip.truth, size)
        if self.size is None:
            same_shape(size, film.shape, f"{clip.name}: the true film {clip.truth.name}")
        return film.frames

    def _at(self, clip: Clip, track: Track, count: int, fps: float, truth: Tensor | None, frames: Tensor) -> Float[Tensor, "n"]:
        """Which pose each of `count` frames has, as indices that may lie between two."""
        assert track.c2w is not None
        poses = len(track.c2w)
        if clip.spread:
            return torch.linspace(0, poses - 1, count, dtype=torch.float64).round()
        rate = self.path_fps / fps if self.path_fps else 1.0
        at = self.offset + torch.arange(count, dtype=torch.float64) * rate
        if at[-1] > poses - 1 + 1e-6:
            said = f" and is {track.fps:.3g} poses a second (world.path_fps)" if track.fps and abs(track.fps - fps) > 0.01 * fps else ""
            raise ValueError(
                f"{clip.name}: the video has {count} frames at {fps:.3g} a second from pose {self.offset} on, its path {track.file.name} has {poses}{said}"
            )
        if rate == 1.0 and track.fps and abs(track.fps - fps) > 0.01 * fps and abs(count / fps - poses / track.fps) < 0.05 * poses / track.fps:
            raise ValueError(
                f"{clip.name}: the video has {count} frames at {fps:.3g} a second, its path {poses} poses at {track.fps:.3g}: both take {count / fps:.3g} s; "
                f"world.path_fps={track.fps:.3g} brings them together"
            )
        if truth is not None and rate == 1.0 and (cut := cut_at_start(frames[0], truth[self.offset :][: poses - count + 1])):
            raise ValueError(
                f"{clip.name}: its first frame is the true film's frame {self.offset + cut}: its start was cut off, use world.offset={self.offset + cut}"
            )
        return at.clamp(max=poses - 1)


def cut_at_start(first: Float[Tensor, "3 y x"], truth: Float[Tensor, "n 3 y x"]) -> int:
    """How many true frames there are before the one that a video begins with; 0 where it begins with the first, or with none of them clearly."""
    if len(truth) < 2:
        return 0
    off = (truth - first).abs().mean((1, 2, 3))
    best = int(off.argmin())
    return best if off[best] < ALIKE * off[0] else 0
