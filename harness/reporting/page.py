"""The folder that opens from disk: the data as a script, the page's own files, plotly's, the videos and their stills."""

import json
import logging
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from av.error import FFmpegError
from plotly.offline import get_plotlyjs

from harness.reporting.media import video_frames
from harness.system.files import atomic_path, file_name, write_atomic

log = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
STILL = 64  # pixels, the height of a chunk's still
COLUMNS = 16  # stills side by side in a sheet


def write_page(folder: Path, experiment: Path, data: dict, films: int | None = None) -> Path:
    """Write `folder`/index.html and what it needs. films: at most so many videos a run are copied (None: all).

    Nothing of an earlier report is left behind; nothing else in the folder is touched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    media, before = folder / "media", _copied(folder / "data.js")
    wanted = set()
    for run in data["runs"]:
        shown, run["films"] = [f for f in run["films"][:films] if f["frames_px"]], []
        for film in shown:
            source = experiment / run["id"] / "videos" / f"{file_name(film['name'])}.mp4"
            video = media / run["id"] / source.name
            try:
                film["still"] = _copy(source, video, film)
            except (FFmpegError, ValueError, IndexError) as error:
                log.warning("%s is damaged and left out (%s)", source, error)
                continue
            run["films"].append(film)
            film["video"] = f"media/{run['id']}/{source.name}"
            film["stills"] = f"media/{run['id']}/{source.stem}.jpg"
            wanted |= {video, video.with_suffix(".jpg")}
    for old in {folder / name for name in before} - wanted:
        old.unlink(missing_ok=True)
    for file in sorted(STATIC.iterdir()):
        if file.suffix in (".html", ".css", ".js"):
            write_atomic(folder / file.name, file.read_text())
    plotly = folder / "plotly.min.js"
    library = get_plotlyjs()
    if not plotly.exists() or plotly.stat().st_size != len(library.encode()):
        write_atomic(plotly, library)
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    write_atomic(folder / "data.js", f"const REPORT = {text};\n")
    return folder / "index.html"


def _copied(file: Path) -> set[str]:
    """The videos and stills of the report that lies here, as its data name them. Nothing where it is damaged."""
    try:
        data = json.loads(file.read_text().removeprefix("const REPORT = ").strip().removesuffix(";"))
        found = {film[k] for run in data["runs"] for film in run["films"] for k in ("video", "stills")}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in found if isinstance(name, str) and name.startswith("media/") and ".." not in Path(name).parts}


def _copy(source: Path, video: Path, film: dict) -> list[int]:
    """Copy a video and make its sheet of stills, one a chunk, unless both are there. Returns a still's size."""
    sheet = video.with_suffix(".jpg")
    count = len(film["frames_px"])
    if not (video.exists() and sheet.exists() and video.stat().st_mtime >= source.stat().st_mtime):
        video.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(video) as temporary:
            shutil.copyfile(source, temporary)
        ends = np.cumsum(film["frames_px"])
        middle = ends - (np.array(film["frames_px"]) + 1) // 2
        frames = list(video_frames(source))
        stills = [_shrunk(frames[min(i, len(frames) - 1)], film["truth"]) for i in middle]
        lines = -(-count // COLUMNS)
        height, width = stills[0].shape[:2]
        canvas = np.zeros((lines * height, min(count, COLUMNS) * width, 3), np.uint8)
        for i, still in enumerate(stills):
            y, x = i // COLUMNS * height, i % COLUMNS * width
            canvas[y : y + height, x : x + width] = still
        with atomic_path(sheet) as temporary:
            iio.imwrite(temporary, canvas, quality=85)
    height, width = iio.improps(sheet).shape[:2]
    return [width // min(count, COLUMNS), height // -(-count // COLUMNS), min(count, COLUMNS)]


def _shrunk(frame: np.ndarray, truth: bool) -> np.ndarray:
    """A frame (its left half where the true view stands on the right) by averaging whole blocks, about STILL pixels high."""
    if truth:
        frame = frame[:, : frame.shape[1] // 2]
    step = max(1, frame.shape[0] // STILL)
    height, width = (n // step * step for n in frame.shape[:2])
    blocks = frame[:height, :width].reshape(height // step, step, width // step, step, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)
