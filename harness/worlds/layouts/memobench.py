"""MemoBench (github.com/MemoBench-Team/MemoBench): Synthetic/SCENE/SCENE_NNN/frames/*.png and Real/NNN/frames/*.png of a model; poses and true frames
in the benchmark's data folder (Synthetic_processed/, Real_Raw/). Its own scores pair frames by their share of the length, and so does this."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.system.files import visible
from harness.worlds.films import FILMS, films_in
from harness.worlds.formats import arrays
from harness.worlds.formats.cameras import check_intrinsics
from harness.worlds.layouts.clip import Clip, Reading, Track

DATA = {"Synthetic": "Synthetic_processed", "Real": "Real_Raw"}


def suits(root: Path) -> bool:
    return any(next((root / part).glob(f"{depth}/frames"), None) for part, depth in (("Synthetic", "*/*"), ("Real", "*")) if (root / part).is_dir())


def clips(root: Path, truth: Path | None, reading: Reading) -> Sequence[Clip]:
    """Every clip of the model and, where the data are there, those that it lacks."""
    if truth is None:
        raise ValueError(f"{root} holds MemoBench clips without their poses; give the benchmark's data folder ({', '.join(DATA.values())}): world.truth=DIR")
    found = []
    for part, depth in (("Synthetic", "*/*"), ("Real", "*")):
        made = {p.relative_to(root) for p in (root / part).glob(depth) if p.is_dir() and visible(p, root)}
        known = {Path(part, p.relative_to(truth / DATA[part])) for p in (truth / DATA[part]).glob(depth) if p.is_dir() and visible(p, truth)}
        for place in sorted(made | (known if made else set())):
            films = films_in(root / place) if place in made else []
            data = truth / DATA[part] / place.relative_to(part)
            number = place.name.rpartition("_")[2].lstrip("0") or "0"
            film, track, true = films[0] if films else None, partial(_track, data, number, part), _true(data, number, part)
            found.append(Clip(place.as_posix(), film, track, true, spread=True, inputs=_files(data, number, part)))
    return found


def _true(data: Path, number: str, part: str) -> Path | None:
    places = [data / f"RGB{number}"] if part == "Synthetic" else [*(data / f"{data.name}{s}" for s in FILMS), data / "FRAMES"]
    return next((p for p in places if p.exists()), None)


def _files(data: Path, number: str, part: str) -> tuple[Path, ...]:
    """Poses and intrinsics."""
    return (data / number / "poses.npy", data / number / "intrinsics.npy") if part == "Synthetic" else (data / "raw" / f"{data.name}_mapanything.npz",)


def _track(data: Path, number: str, part: str, size: tuple[int, int]) -> Track:
    files = _files(data, number, part)
    poses, k = files[0], files[-1]
    if part == "Synthetic":
        cameras, intrinsics = arrays.read(poses), arrays.read_array(k) if k.is_file() else None
    else:
        cameras = arrays.read(poses)
        intrinsics = cameras.intrinsics
    c2w = cameras.opencv()
    if intrinsics is None:
        return Track(poses, c2w)
    middle = intrinsics[..., 2:4].reshape(-1, 2)[0] if intrinsics.shape[-1] == 4 else intrinsics.reshape(-1, 3, 3)[0, :2, 2]
    own = (round(2 * float(middle[1])), round(2 * float(middle[0])))  # the benchmark does not say of which size they are: the middle is in the middle
    return Track(poses, c2w, check_intrinsics(intrinsics, k, len(c2w), own if min(own) > 2 else size, (1, 1)))
