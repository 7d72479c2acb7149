"""`world=scenes`: first images, each sent along camera paths that come back. The protocol of the paper: nothing but the first
frame is given, and a revisit is compared with the first visit of the same rollout (arXiv 2605.22718, section 5)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch.nn.functional as F
import yaml
from jaxtyping import Float
from torch import Tensor

from harness.settings.ranges import Angle, Count, Len, Natural, Positive, Share, Size, Weight
from harness.trajectory import RevisitPair, Trajectory
from harness.worlds.base import ChunkPx, Held, Step, Turn, World
from harness.worlds.frusta import reach
from harness.worlds.paths import check_stride, frame_rate, read_path, whole_chunks
from harness.worlds.pictures import IMAGES, pictures_in, read_image, resize
from harness.worlds.poses import integrate, pinhole
from harness.worlds.revisits import Tolerance
from harness.worlds.scripted import PRESETS, parse
from harness.worlds.text import prompt_beside, read_text

KEYS = ("image", "prompt", "trajectory", "name")
SCRIPT = re.compile(r"[RLWSAD_][RLWSAD_\d.]*")
COUNTED = re.compile(r"(.*[RLWSAD\d])_(\d+)")  # a script and, perhaps, its number of video frames
LARGEST_TURN = 360  # degrees; a larger number at the end of a name can only be frames
USUAL_TURN = "90"  # of released names that give no angle; all others turn by 90


@dataclass(frozen=True)
class Route:
    """A camera path in whole chunks, and where it comes back."""

    c2w: Float[Tensor, "p 4 4"]
    actions: Float[Tensor, "p 6"]
    pairs: tuple[RevisitPair, ...]
    miss: str


@dataclass(frozen=True)
class Scene:
    """One rollout: an image and the key of the path that it is sent along."""

    name: str
    image: Path
    prompt: str
    path: str


class ScenesWorld(World):
    """Images of `folder`, each along every one of `trajectories`.

    folder: pictures, a prompt in a .txt file of the same name beside each; or a YAML file with a list of entries {image,
    prompt, trajectory, name} of which only the image must be there, files relative to the YAML file. An entry's trajectory
    (one or a list) replaces `trajectories` for its image. A scene is called after its image (or name) and its trajectory;
    the name alone, if the entry has one trajectory.
    A trajectory is an action string, perhaps with its number of video frames (`R_L_R_L_R_L90_360`, see `script`), or a
    folder with poses.npy. Action strings are held at the end to whole chunks; recorded paths and strings with a number of
    frames are cut to whole chunks. Nothing is stretched in time: latent frame i has the pose of video frame `stride_px` * i.
    metres_tolerance, degrees_tolerance: of recorded paths, see `Tolerance`; action strings repeat exactly. depth: likewise; without one, paths see
    as far as they reach, but where turns leave views of an action string only these count. convention, direction: as of `RecordedWorld`. encoding: of prompts
    that are not Unicode.
    size: pixels (rows, columns), to which images are scaled and cropped. fov: of the picture's width, degrees. step: metres a
    frame, degrees: turn a frame, of action strings. path_fps: frame rate of recorded paths, `fps` if None.
    Raises FileNotFoundError or ValueError for what is missing or cannot be read: before anything runs, except for a picture that
    turns out damaged.
    """

    def __init__(
        self,
        folder: str,
        trajectories: Annotated[Sequence[str], Len(1)] | str,
        size: Size,
        fov: Angle,
        step: Step,
        degrees: Turn,
        move_frames: Held,
        hold_frames: Held,
        fps: Positive,
        min_gap: Natural,
        overlap: Share,
        chunk_px: ChunkPx = 12,
        stride_px: Count = 4,
        path_fps: Positive | None = None,
        protocol: Literal["free"] = "free",
        metres_tolerance: Weight = 0.05,
        degrees_tolerance: Weight = 2.0,
        depth: Positive | None = None,
        convention: Literal["opencv", "opengl"] | None = None,
        direction: Literal["c2w", "w2c"] | None = None,
        encoding: str | None = None,
    ) -> None:
        if not size or len(size) != 2 or min(size) < 1:
            raise ValueError(f"world.size={size}: give the rows and columns that the backbone works at, as in world.size=[480,832]")
        self.size, self.fov, self.fps, self.step = (size[0], size[1]), fov, fps, step
        self.grammar = (degrees, move_frames, hold_frames)
        self.chunk_px, self.stride_px, self.rate = chunk_px, check_stride(stride_px, chunk_px), frame_rate(path_fps, fps)
        self.exact = Tolerance(min_gap, overlap, depth=depth)
        self.recorded = Tolerance(min_gap, overlap, metres_tolerance, degrees_tolerance, depth, recorded=True)
        self.reading, self.encoding = (convention, direction), encoding
        self._paths: dict[str, Route] = {}
        self.scenes = tuple(self._scenes(Path(folder).expanduser(), _several(trajectories)))
        self._names = tuple(s.name for s in self.scenes)
        if twice := sorted({n for n in self._names if self._names.count(n) > 1}):
            raise ValueError(f"{folder}: several scenes are called {', '.join(twice)}; rename an image, or give the entries of a YAML list a name each")

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def trajectory(self, index: int) -> Trajectory:
        scene = self.scenes[index]
        path = self._paths[scene.path]
        image = cover(read_image(scene.image), self.size)
        intrinsics = pinhole(self.fov, self.size, len(path.c2w))
        return Trajectory(scene.name, path.c2w, intrinsics, path.actions, image, path.pairs, self.fps, scene.prompt, no_pairs=path.miss)

    def _scenes(self, source: Path, trajectories: list[str]) -> list[Scene]:
        """The scenes of a folder or a YAML list; their paths are read on the way."""
        if source.is_dir():
            images = pictures_in(source)
            if not images:
                raise FileNotFoundError(f"world.folder={source} holds no image ({' '.join(IMAGES)}); put the first frames into it")
            entries = [{"image": p.name} for p in images]
            base = source
        elif source.suffix in (".yaml", ".yml") and source.is_file():
            entries, base = _entries(source, self.encoding), source.parent
        else:
            raise FileNotFoundError(f"world.folder={source} is neither a folder of images nor a YAML file that lists them; give one of them")
        scenes = []
        for entry in entries:
            image = base / str(entry["image"])
            if not image.is_file():
                raise FileNotFoundError(f"{source}: no image {image}; correct the entry {entry['image']!r}, or put the image there")
            prompt = entry.get("prompt")
            if prompt is None:
                prompt = prompt_beside(image.parent, [f"{image.stem}.txt", f"{image.name}.txt"], self.encoding)
            own = _several(entry.get("trajectory"))
            if not own and not trajectories:
                raise ValueError(f"{source}: {image.name} has no trajectory; list some in world.trajectories, as in world.trajectories=[R_L_R_L90]")
            for trajectory in own or trajectories:
                key, label = self._path(trajectory, base if own else Path())
                name = str(entry["name"]) if "name" in entry and len(own) == 1 else f"{entry.get('name', image.stem)}_{label}"
                scenes.append(Scene(re.sub(r"[^A-Za-z0-9_.\-\u0080-\U0010ffff]", "_", name), image, str(prompt).strip(), key))
        return scenes

    def _path(self, text: str, base: Path) -> tuple[str, str]:
        """Read a trajectory, once; its key among the paths and its name. Folders are relative to `base`."""
        if text in PRESETS or SCRIPT.fullmatch(text):
            if text not in self._paths:
                actions, counted = script(text, *self.grammar)
                if not counted:
                    whole = whole_chunks(len(actions) + self.chunk_px - 1, self.chunk_px, self.stride_px)
                    actions = F.pad(actions, (0, 0, 0, whole - len(actions)))
                self._paths[text] = self._route(text, integrate(actions, self.step), actions, self.exact)
            return text, text
        folder = (base / text).resolve()
        if not folder.is_dir():
            known = f"an action string as R_L_R_L90 or R_L90_180, nor one of {', '.join(PRESETS)}"
            raise ValueError(f"unknown trajectory {text!r}: neither {known}, nor a folder {folder} with poses.npy")
        if str(folder) not in self._paths:
            path = read_path(folder, self.rate, None, *self.reading)
            self._paths[str(folder)] = self._route(str(folder), path.c2w, path.actions, self.recorded.reaching(reach(path.c2w)))
        return str(folder), folder.name

    def _route(self, name: str, c2w: Float[Tensor, "p 4 4"], actions: Float[Tensor, "p 6"], tolerance: Tolerance) -> Route:
        keep = whole_chunks(len(c2w), self.chunk_px, self.stride_px)
        if keep == 0:
            raise ValueError(f"trajectory {name}: {len(c2w)} video frames are less than a chunk of {self.chunk_px - self.stride_px + 1}; use a longer one")
        c2w, aspect = c2w[:keep], self.size[0] / self.size[1]
        pairs, miss = tolerance.returns(c2w, self.fov, self.stride_px, aspect=aspect)
        if not pairs and tolerance.depth is None:  # a walk that never turns: its own reach says what leaves a view
            pairs, _ = tolerance.reaching(reach(c2w)).returns(c2w, self.fov, self.stride_px, aspect=aspect)
        return Route(c2w, actions[:keep], pairs, "" if pairs else miss)


def script(name: str, degrees: float = 2.0, move_frames: int = 24, hold_frames: int = 18) -> tuple[Float[Tensor, "p 6"], bool]:
    """Actions of an action string, row 0 being the start pose's; and whether the name says how many they are.

    A number after the last `_` is the number of video frames when the turns have their angle before it, when there are
    none, or when it is more than 360: `R_L90_180`, `W_S_60`, `L_R_385` (which turns by 90). Otherwise it is the angle:
    `R_L_90`. Moves are followed by a hold up to that number. The last frame is missing where moves take the whole number,
    since frame 0 is the start pose: the released scripts begin after the first step, and their paths never close exactly.
    Raises ValueError for a number too small for the moves.
    """
    match = None if name in PRESETS else COUNTED.fullmatch(name)
    if match is None:
        return parse(name, degrees, move_frames, hold_frames), False
    head, number = match[1], int(match[2])
    turns, angle = re.search("[RL]", head), re.search(r"\d", head)
    if turns and not angle:
        if number <= LARGEST_TURN:
            return parse(name, degrees, move_frames, hold_frames), False
        head += USUAL_TURN
    actions = parse(head, degrees, move_frames, hold_frames)
    if len(actions) - 1 > number:
        raise ValueError(
            f"trajectory {name!r}: its moves take {len(actions) - 1} video frames, the name says {number}; "
            f"use {head}_{len(actions) - 1} or {head}, or change world.degrees, world.move_frames or world.hold_frames"
        )
    return F.pad(actions, (0, 0, 0, max(0, number - len(actions))))[:number], True


def cover(image: Float[Tensor, "1 3 y x"], size: tuple[int, int]) -> Float[Tensor, "1 3 y2 x2"]:
    """An image scaled until it covers `size`, and cropped around its centre: nothing is stretched, no border is left."""
    scale = max(wanted / there for wanted, there in zip(size, image.shape[-2:], strict=True))
    grown = [max(wanted, round(there * scale)) for wanted, there in zip(size, image.shape[-2:], strict=True)]
    top, left = ((there - wanted) // 2 for wanted, there in zip(size, grown, strict=True))
    return resize(image, (grown[0], grown[1]))[..., top : top + size[0], left : left + size[1]].contiguous()


def _several(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else [str(v) for v in value or ()]


def _entries(file: Path, encoding: str | None) -> list[dict]:
    """The entries of a YAML list, with the image and no unknown key. Raises ValueError that names the entry."""
    try:
        entries = yaml.safe_load(read_text(file, encoding))
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML ({error}); write a list of entries with {', '.join(KEYS)}") from error
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise ValueError(f"{file} is no list of entries; write one line a scene: - {{image: street.png, prompt: A street., trajectory: R_L_R_L90}}")
    for i, entry in enumerate(entries, 1):
        if unknown := sorted(map(str, entry.keys() - set(KEYS))):
            raise ValueError(f"{file}: entry {i} has the unknown key {', '.join(unknown)}; use {', '.join(KEYS)}")
        if "image" not in entry:
            raise ValueError(f"{file}: entry {i} has no image; add one, as in image: street.png")
    return entries
