"""`world=recorded`: camera paths from files, with an image to start from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harness.settings.ranges import Angle, Count, Natural, Positive, Share, Size, Weight
from harness.system.files import folders_below
from harness.trajectory import Trajectory
from harness.worlds.base import ChunkPx, Held, Protocol, World, given_frames
from harness.worlds.formats import WANTED, find_cameras
from harness.worlds.formats.arrays import named, read_array
from harness.worlds.formats.cameras import check_intrinsics
from harness.worlds.frusta import reach
from harness.worlds.paths import CameraPath, check_stride, described, frame_rate, read_path, whole_chunks
from harness.worlds.pictures import pictures_in, read_image, resize
from harness.worlds.poses import pinhole
from harness.worlds.revisits import Returns, Tolerance
from harness.worlds.text import prompt_beside

TOLD = 8  # paths that are described before a run; more are counted


class RecordedWorld(World):
    """One trajectory for each folder below `folder` (or `folder` itself) that holds camera poses: poses.npy or one *_poses.npy, or a file of
    another format (`harness.worlds.formats`).

    Files: poses (F,4,4, OpenCV camera-to-world), intrinsics likewise (F,4 or 1,4: fx fy cx cy in pixels of `intrinsics_size`, or shares of
    the picture), unless the format has them; a first image (png, jpg, webp, tif; named first.* if there are several), optional prompt.txt,
    frames.npy (F,y,x,3 uint8: true views) and actions.npy (F,6; derived from the poses where there is none). lead_in: hold the first
    pose for this many more frames, so that a backbone that starts from a whole chunk has one. chunk_px, stride_px: video
    frames that a chunk and a latent frame add; a path is cut to whole chunks. path_fps: frame rate of the files, None for
    `fps`. step: see `derived_actions`. fov: degrees of the picture's width, where nothing tells the intrinsics. metres_tolerance,
    degrees_tolerance, depth: when a view counts as seen again, see `Tolerance`; without a depth one sees as far as the path reaches.
    convention, direction: what the poses are, where that is not what their format says. encoding: of prompts that are not Unicode.
    Raises FileNotFoundError or ValueError that name the file and what it should hold; poses, actions and intrinsics are read before anything runs.
    """

    caches = ("_paths", "_pairs")  # read once

    def __init__(
        self,
        folder: str,
        size: Size,
        protocol: Protocol,
        lead_in: Held,
        intrinsics_size: Size,
        fps: Positive,
        min_gap: Natural,
        overlap: Share,
        chunk_px: ChunkPx,
        stride_px: Count = 1,
        path_fps: Positive | None = None,
        step: Positive | None = None,
        fov: Angle | None = None,
        metres_tolerance: Weight = 0.05,
        degrees_tolerance: Weight = 2.0,
        depth: Positive | None = None,
        convention: Literal["opencv", "opengl"] | None = None,
        direction: Literal["c2w", "w2c"] | None = None,
        encoding: str | None = None,
    ) -> None:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"world.folder={folder} is no folder; give one with poses.npy, intrinsics.npy and a first image")
        self.folders = [p for p in folders_below(root) if "sparse" not in p.relative_to(root).parts and find_cameras(p)]
        if not self.folders:
            raise FileNotFoundError(f"{folder}: no poses.npy or *_poses.npy in it or below it, nor a file of another format; known are {WANTED}")
        self._names = tuple(str(p.relative_to(root)).replace("/", "_") if p != root else root.resolve().name for p in self.folders)
        if protocol == "guided" and (without := [str(p) for p in self.folders if not (p / "frames.npy").exists()]):
            raise ValueError(f"world.protocol=guided gives true views up to the first return, and {without[0]} has no frames.npy; add it, or use free")
        self.size, self.protocol, self.lead_in = (size[0], size[1]), protocol, lead_in
        self.intrinsics_size, self.fov = (intrinsics_size[0], intrinsics_size[1]), fov
        self.fps, self.step, self.depth, self.encoding = fps, step, depth, encoding
        self.tolerance = Tolerance(min_gap, overlap, metres_tolerance, degrees_tolerance, depth, recorded=True)
        self.chunk_px, self.stride_px, self.rate = chunk_px, check_stride(stride_px, chunk_px), frame_rate(path_fps, fps)
        self.convention, self.direction = convention, direction
        self._paths: dict[int, Any] = {}
        self._pairs: dict[int, Any] = {}
        for index in range(len(self.folders)):
            self._read(index)

    def _read(self, index: int):
        """Of one trajectory, read once. Plain dictionaries: they travel to other processes (`devices=2`)."""
        if index not in self._paths:
            self._paths[index] = self._path(index)
        return self._paths[index]

    def _found(self, index: int):
        if index not in self._pairs:
            self._pairs[index] = self._returns(index)
        return self._pairs[index]

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def about(self) -> Sequence[str]:
        lines = []
        for index, name in enumerate(self._names[:TOLD]):
            path, returns, prompt = self._read(index)[0], self._found(index), self._prompt(index)
            said = f"prompt {prompt[:40]!r}" if prompt else "no prompt"
            lines.append(f"{name}: {described(path)}; {returns.miss or f'{len(returns.pairs)} revisit pairs'}; {said}")
        return lines + ([f"and {len(self._names) - TOLD} more"] if len(self._names) > TOLD else [])

    def trajectory(self, index: int) -> Trajectory:
        folder, lead = self.folders[index], self.lead_in
        path, _ = self._read(index)
        c2w, intrinsics, actions = self._held(index)
        truth = self._truth(folder, path)
        if truth is not None:
            truth = torch.cat([truth[:1].expand(lead, -1, -1, -1), truth])[: len(c2w)]
            given = given_frames(c2w, self.protocol, self.chunk_px, self.tolerance.outbound(c2w) if self.protocol == "guided" else None)
            images = truth[: given - self.stride_px + 1]
        else:
            images = resize(read_image(self._first_image(index)), self.size).expand(1 + lead, -1, -1, -1)
        pairs, miss = self._found(index)
        prompt = self._prompt(index)
        return Trajectory(self._names[index], c2w, intrinsics, actions, images, pairs, self.fps, prompt, reference=truth, no_pairs=miss)

    def _path(self, index: int) -> tuple[CameraPath, Float[Tensor, "n 4"]]:
        """Poses and actions, and intrinsics in pixels of `size`, of a folder."""
        folder = self.folders[index]
        path = read_path(folder, self.rate, self.step, self.convention, self.direction)
        files = named(folder, "intrinsics")
        if len(files) > 1:
            raise ValueError(f"{folder}: expected intrinsics.npy or one *_intrinsics.npy, found {[p.name for p in files]}")
        cameras = path.cameras
        if files:
            pixels = check_intrinsics(read_array(files[0]), files[0], path.recorded, self.intrinsics_size, self.size)
        elif (told := cameras.lens(path.recorded, self.intrinsics_size, self.size)) is not None:
            pixels = told
        elif self.fov is not None:
            if not 0 < self.fov < 180:
                raise ValueError(f"world.fov={self.fov}; use an angle between 0 and 180 degrees")
            pixels = pinhole(self.fov, self.size, 1)
        else:
            raise FileNotFoundError(
                f"{folder}: no intrinsics.npy, and {cameras.file.name} tells none; add one (fx fy cx cy), or world.fov=DEGREES of the picture's width"
            )
        return path, pixels.expand(path.recorded, 4)[path.at.round().long()]

    def _held(self, index: int) -> list[Tensor]:
        """Poses, intrinsics and actions with the lead-in, in whole chunks."""
        path, intrinsics = self._read(index)
        held = [torch.cat([x[:1].expand(self.lead_in, *x.shape[1:]), x]) for x in (path.c2w, intrinsics, path.actions)]
        keep = whole_chunks(len(held[0]), self.chunk_px, self.stride_px)
        if keep == 0:
            need = self.chunk_px - self.stride_px + 1
            raise ValueError(f"{self.folders[index]}: {len(path.c2w)} poses and lead_in={self.lead_in} make less than one chunk of {need} frames")
        return [x[:keep] for x in held]

    def _returns(self, index: int) -> Returns:
        c2w, intrinsics, _ = self._held(index)
        fx, fy, _, _ = intrinsics[0].tolist()
        width = self.size[1] / 2 / fx
        horizontal = 2 * torch.rad2deg(torch.atan(torch.tensor(self.size[1] / 2) / intrinsics[0, 0])).item()
        return self.tolerance.reaching(reach(c2w)).returns(c2w, horizontal, self.stride_px, aspect=self.size[0] / 2 / fy / width)

    def _truth(self, folder: Path, path: CameraPath) -> Float[Tensor, "p 3 y x"] | None:
        if not (folder / "frames.npy").exists():
            return None
        array = read_array(folder / "frames.npy")
        if array.ndim != 4 or len(array) != path.recorded or array.shape[-1] != 3 or array.dtype != np.uint8:
            raise ValueError(f"{folder}/frames.npy is {array.dtype} {array.shape}, expected uint8 ({path.recorded}, y, x, 3)")
        at = path.at.round().long()
        if not torch.equal(at.double(), path.at):
            raise ValueError(f"{folder}/frames.npy has no frame at every 1/{self.fps:g} s of a recording at world.path_fps; record at a multiple, or remove it")
        return resize(torch.from_numpy(array)[at].permute(0, 3, 1, 2).float() / 255, self.size)

    def _first_image(self, index: int) -> Path:
        """The picture of a folder; the first one that the file of poses names, where there is none."""
        folder = self.folders[index]
        images = pictures_in(folder)
        chosen = [p for p in images if p.stem == "first"] or images
        if not images:
            cameras = self._read(index)[0].cameras
            places = [folder / cameras.pictures[0], folder / "images" / cameras.pictures[0]] if cameras.pictures else []
            chosen = [p for p in places if p.is_file()][:1]
        if len(chosen) != 1:
            raise FileNotFoundError(
                f"{folder}: found {len(images)} images ({', '.join(p.name for p in images)}); put one in it, or name the first frame first.png"
            )
        return chosen[0]

    def _prompt(self, index: int) -> str:
        folder = self.folders[index]
        pictures = [p for p in pictures_in(folder) if p.stem == "first"] or pictures_in(folder)[:1]
        return prompt_beside(folder, ["prompt.txt", *(name for p in pictures for name in (f"{p.stem}.txt", f"{p.name}.txt"))], self.encoding)
