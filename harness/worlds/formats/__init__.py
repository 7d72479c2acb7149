"""Files of camera poses that people have, one table of readers: which file of a folder is read, and how."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from harness.system.files import visible
from harness.worlds.formats import arrays, colmap, tables, transforms
from harness.worlds.formats.cameras import Cameras


class Reader(NamedTuple):
    """find: a format's files in a folder. read: one of them. wanted: what such files are called, for messages."""

    find: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], Cameras]
    wanted: str


READERS = (  # the first one that finds a file reads the folder
    Reader(arrays.find, arrays.read, "poses.npy, poses.npz"),
    Reader(transforms.find, transforms.read, "transforms.json (nerfstudio, instant-ngp)"),
    Reader(colmap.find, colmap.read, "images.txt (COLMAP)"),
    Reader(tables.find, tables.read, "a .txt table of poses (RealEstate10K, TUM, KITTI)"),
)
WANTED = ", ".join(reader.wanted for reader in READERS)


def find_cameras(folder: Path) -> tuple[Reader, Path] | None:
    """The file of poses of a folder and who reads it; None where there is none. Raises ValueError for several of one format."""
    for reader in READERS:
        files = [f for f in reader.find(folder) if visible(f)]
        named = [f for f in files if f.stem == "poses" or f.stem.endswith("_poses")]
        if len(files) > 1 and len(named) == 1:
            files = named
        if len(files) > 1:
            raise ValueError(
                f"{folder}: {', '.join(f.name for f in files)} are all camera poses; keep one of them, or call it {files[0].with_stem('poses').name}"
            )
        if files:
            return reader, files[0]
    return None


def read_cameras(folder: Path) -> Cameras:
    """The cameras of a folder. Raises FileNotFoundError without a file of poses, ValueError that names a file that cannot be read."""
    found = find_cameras(folder)
    if found is None:
        raise FileNotFoundError(f"{folder}: expected {WANTED}")
    return found[0].read(found[1])
