"""Videos of other systems for the tests: a turn out and back in a room, its true views, and films as systems make of them."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

from harness.worlds.poses import integrate, pinhole
from harness.worlds.render import render
from harness.worlds.rooms import make_room, place
from harness.worlds.scripted import parse

SIZE = (32, 48)


def out_and_back():
    """Poses of a turn out and back in a room, and the true views."""
    room = make_room(3)
    c2w = place(torch.Generator().manual_seed(3), room, integrate(parse("R_L90", 15.0, 6, 3), 0.1))[0]
    return c2w, (render(room.scene, c2w, pinhole(80.0, SIZE, len(c2w)), SIZE) * 255).round().byte().permute(0, 2, 3, 1).numpy()


def film(path: Path, frames, fps=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, frames, plugin="pyav", codec="libx264", fps=fps, out_pixel_format="yuv420p")


def forgotten(frames, seed=0):
    """A system that forgets: the way back is noise."""
    other = frames.copy()
    other[9:] = np.random.default_rng(seed).integers(0, 255, frames[9:].shape)
    return other


def plain(folder, views, systems=("remembers", "forgets")):
    c2w, frames = views
    for system in systems:
        shown = frames if system == "remembers" else forgotten(frames)
        for name in ("hall", "客厅"):
            film(folder / system / f"{name}.mp4", shown)
            np.save(folder / system / f"{name}_poses.npy", c2w.numpy())
        film(folder / system / "hall_true.mp4", frames)
    return folder
