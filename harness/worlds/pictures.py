"""Pictures as tensors: of any depth, upright, scaled."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.system.files import visible

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
WHITE = (1.0, 255.0, 65535.0)  # what white may be where numbers are no bytes; the smallest that nothing exceeds


def pictures_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGES and p.is_file() and visible(p))


def read_image(file: Path) -> Float[Tensor, "1 3 y x"]:
    """A picture in [0, 1], upright as its camera noted. Raises ValueError for a file that holds none."""
    try:
        deep = _deep(file)
        array = iio.imread(file, plugin="pillow", index=0, mode="RGB", rotate=True) if deep is None else deep
    except (OSError, SyntaxError, ValueError, KeyError) as error:  # Pillow reports damaged PNG files as syntax errors
        raise ValueError(f"{file} is damaged or no image ({error}); replace it with a png, jpg or webp") from error
    if array.dtype == np.uint8:
        return torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float() / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None].float()


def resize(images: Float[Tensor, "n 3 y x"], size: tuple[int, int]) -> Float[Tensor, "n 3 y2 x2"]:
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _deep(file: Path) -> Float[np.ndarray, "y x 3"] | None:
    """A picture of more than 8 bits in [0, 1], which Pillow would cut off at 255; None for all others."""
    if file.suffix.lower() in (".tif", ".tiff"):
        array = iio.imread(file, plugin="tifffile", key=0)
        if array.dtype == np.uint8:
            return None
    else:
        if iio.improps(file, plugin="pillow", index=0).dtype == np.uint8:
            return None
        array = iio.imread(file, plugin="pillow", index=0)
        if array.dtype in (np.uint8, np.bool_):
            return None
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"its pixels are {array.shape}")
    numbers = array[..., : 3 if array.shape[2] > 2 else 1].astype(np.float64)
    if not np.isfinite(numbers).all() or numbers.min() < 0:
        raise ValueError("it holds NaN, infinity or numbers below 0")
    white = 65535.0 if array.dtype.kind in "iu" else next((w for w in WHITE if numbers.max() <= w), None)
    if white is None or numbers.max() > white:
        raise ValueError(f"it holds numbers up to {numbers.max():g}; scale it to 0 to 1")
    return np.broadcast_to(numbers / white, (*numbers.shape[:2], 3)).copy()
