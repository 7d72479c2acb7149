"""NumPy files: arrays of any byte order and precision, and the poses and intrinsics in them."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.system.files import visible
from harness.worlds.formats.cameras import Cameras

EITHER = ("extrinsics", "extrinsic", "pose", "cameras")  # names that do not say which way
POSES = {"poses": "c2w", "c2w": "c2w", "cam_c2w": "c2w", "camera_poses": "c2w", "camera_to_world": "c2w", "w2c": "w2c", "world_to_camera": "w2c"}
INTRINSICS = ("intrinsics", "intrinsic", "K", "Ks")


def find(folder: Path) -> Sequence[Path]:
    """poses.npy, or every *_poses.npy; else the same with .npz."""
    for suffix in (".npy", ".npz"):
        if files := named(folder, "poses", suffix):
            return files
    return []


def named(folder: Path, name: str, suffix: str = ".npy") -> list[Path]:
    """NAME.npy of a folder, or every *_NAME.npy."""
    exact = folder / f"{name}{suffix}"
    return [exact] if exact.is_file() else sorted(p for p in folder.glob(f"*_{name}{suffix}") if visible(p))


def read(file: Path) -> Cameras:
    if file.suffix == ".npy":
        return Cameras(file, read_array(file), upright=True)
    arrays = read_arrays(file)
    key = next((k for k in POSES if k in arrays), None)
    if key is None and len(stacks := [k for k, a in arrays.items() if a.ndim == 3 and a.shape[1:] in ((4, 4), (3, 4))]) == 1:
        key = stacks[0]
    if key in EITHER:
        return Cameras(file, arrays[key], direction=f"{key} may be either", intrinsics=next((arrays[k] for k in INTRINSICS if k in arrays), None))
    if key is None:
        raise ValueError(f"{file} holds {', '.join(arrays) or 'nothing'}; call the (F, 4, 4) poses one of {', '.join(POSES)}")
    intrinsics = next((arrays[k] for k in INTRINSICS if k in arrays), None)
    return Cameras(file, arrays[key], direction=POSES.get(key, "c2w"), intrinsics=intrinsics, upright=POSES.get(key, "c2w") == "c2w")


def read_array(file: Path) -> np.ndarray:
    """The numbers of a .npy file, in this machine's byte order; longdouble as float64. Raises ValueError that names the file."""
    try:
        with file.open("rb") as opened:
            array = np.load(opened, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        kind = "holds Python objects" if "pickle" in str(error) and file.read_bytes()[:6] == b"\x93NUMPY" else "is damaged or no array file"
        raise ValueError(f"{file} {kind}; save plain numbers with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{file} is an archive of several arrays; call it {file.with_suffix('.npz').name}")
    return _plain(array, file)


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name, those of numbers; as `read_array` does."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            kept = {}
            for key in archive.files:
                try:
                    kept[key] = _plain(archive[key], f"{file}: {key}")
                except ValueError:  # texts and objects beside the poses are none of ours
                    continue
            return kept
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file} is damaged or no archive of arrays; save it with numpy.savez") from error


def _plain(array: np.ndarray, origin: Path | str) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{origin} holds {array.dtype}, expected numbers")
    if not array.size:
        raise ValueError(f"{origin} is an empty array {array.shape}")
    if array.dtype.itemsize > 8:
        return array.astype(np.float64)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
