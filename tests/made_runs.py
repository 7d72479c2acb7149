"""Run folders with invented numbers, through the code that writes real ones: what the report's tests read."""

from dataclasses import asdict
from pathlib import Path

import av
import imageio.v3 as iio
import numpy as np

from harness.reporting.media import ENCODER
from harness.reporting.table import EXTERNAL
from harness.results.identity import config_hash
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from metrics.frame import LPIPS, PSNR
from metrics.metric_set import MetricSet

NAMES = ("test0000_turn", "test0001_walk", "test0002_zigzag", "test0003_turn", "test0004_walk")
DEVICE = "a test's machine"
COLUMNS = [asdict(c) for c in MetricSet((PSNR(), LPIPS())).columns()]


def make_run(
    experiment: Path, policy: str = "full", *, quality: float = 30.0, cost: float = 1e6, seed: int = 0, world: str = "rooms", version: str = "1",
    device: str = DEVICE, names: tuple[str, ...] = NAMES, noise: str = "n", film: bool = False, settings: dict[str, float] | None = None, chunks: int = 6,
    published: dict | None = None,
) -> Path:  # fmt: skip
    """One finished run: PSNR about `quality`, `cost` bytes in the window. settings: of the policy. film: with a small video."""
    settings = settings or {}
    label = " ".join([policy, *(f"{k}={v}" for k, v in settings.items())])
    config = {
        "policy": {"_target_": f"policies.{policy}", **settings},
        "backbone": {"dtype": "float32"},
        "world": {"name": world, "trajectories": len(names)},
        "store": {},
    }
    config |= {"metric": {"psnr": {}}, "seed": seed}
    folder = RunFolder(experiment / f"{policy}-{config_hash(config | {'version': version, 'device': device, 'noise': noise})}")
    folder.create()
    draw = np.random.default_rng([seed, int(quality * 1000), len(settings)])
    for i, name in enumerate(names):
        folder.write(_record(name, quality + i + 0.3 * draw.normal(), cost * (1 + 0.01 * i), noise, policy, chunks))
        if film:
            _film(folder.path / "videos" / f"{name}.mp4", chunks * 3, draw)
    about = {
        "label": label, "policy": policy, "backbone": "rooms", "world": world, "store": "gpu", "protocol": "guided", "seed": seed,
        "config": config | {"published": published or {}},
        "comparable": config_hash({"world": world, "seed": seed}), "metrics": {"psnr": version}, "git": {"commit": "0" * 40, "dirty": False},
        "versions": {"python": "3"}, "device": device, "finished": "2026-01-01T00:00:00+00:00", "fps_includes": "generated chunks",
    }  # fmt: skip
    folder.finish(about, names, columns=COLUMNS)
    return folder.path


def make_external(experiment: Path, system: str, quality: float = 28.0, names: tuple[str, ...] = NAMES) -> Path:
    """Scored videos of another system: pairs and a small film, no chunks and no costs."""
    folder = RunFolder(experiment / f"{system}-external")
    folder.create()
    for i, name in enumerate(names):
        made = _record(name, quality + i, 1.0, "path", system, 6)
        values = {k: v for k, v in made.values.items() if not k.startswith("cost/")}
        folder.write(Record(name, values, made.pairs, [], made.noise, camera=made.camera))
        _film(folder.path / "videos" / f"{name}.mp4", 18, np.random.default_rng(i))
    about = {
        "label": system, "policy": system, "backbone": "external", "world": "videos (plain)", "store": "external", "protocol": "", "seed": 0,
        "external": EXTERNAL, "about_policy": f"{EXTERNAL}; videos from a folder", "comparable": "external",
        "config": {"policy": {"system": system}, "backbone": {"external": True}, "world": {}, "store": {}, "metric": {}, "seed": 0},
        "metrics": {"psnr": "1"}, "git": {"commit": "unknown", "dirty": None}, "versions": {"python": "3"}, "device": EXTERNAL,
        "finished": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    folder.finish(about, names, columns=COLUMNS)
    return folder.path


def _record(name: str, quality: float, cost: float, noise: str, policy: str, chunks: int) -> Record:
    values = {"quality/psnr_revisit": quality, "quality/lpips_revisit": 2 / quality, "cost/fps_mean": 1e7 / cost, "cost/attended_tokens": cost / 1e3}
    values |= {"cost/window_bytes": cost, "cost/bank_bytes_gpu": cost / 2, "cost/bank_bytes": cost / 2, "cost/stored_bytes": 1.5 * cost}
    values |= {"cost/unreachable_frames": 0.0, "frames": 3.0 * chunks}
    rows = [_chunk(i, cost, policy) for i in range(chunks)]
    pairs = [
        {"first": 3 + i, "revisit": 3 * chunks - 1 - i, "gap_frames": 3 * chunks - 4 - 2 * i, "psnr_revisit": quality + 0.1 * i, "lpips_revisit": 0.05}
        for i in range(4)
    ]
    camera = [[0.1 * i, 0.05 * i, 10.0 * i] for i in range(3 * chunks)]
    return Record(name, values, pairs, rows, noise=f"{noise}{name}", camera=camera)


def _chunk(i: int, cost: float, policy: str) -> dict[str, float | str]:
    """Chunk 0 and the last one are in the window; `full` has all, `worldkv` brings chunk 1 back at half of its rows, others lose the rest."""
    past = list(range(3 * i))
    window = past if policy == "full" else [f for f in past if f < 3 or f >= 3 * (i - 1)]
    back = [f for f in (3, 4, 5) if policy == "worldkv" and f in past and f not in window]
    lost = [f for f in past if f not in window] if policy == "sliding" else []
    attended = sorted(window + back)
    text = {
        "attended": attended,
        "retrieved": back,
        "unreachable": lost,
        "stored": [16 if f in back else 0 if f in lost else 32 for f in past],
        "taken": [16 if f in back else 32 for f in attended],
    }
    return {
        "chunk": i, "start": 3 * i, "frames": 3, "frames_px": 3, "forced": i < 2, "attended_rows": 96 + 32 * len(attended), "window_bytes": cost,
        "bank_bytes_gpu": cost * i / 10, "bank_bytes": cost * i / 10, "stored_bytes": cost * (1 + i / 10),
        "unreachable_frames": len(lost), "seconds_passes": 0.1, "seconds_decode": 0.05,
    } | {k: " ".join(map(str, v)) for k, v in text.items()}  # fmt: skip


def _film(path: Path, frames: int, draw: np.random.Generator) -> None:
    """A small video whose right half would be the true view, marked as such beside it."""
    pictures = draw.integers(0, 255, (frames, 4, 8, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=8, options=ENCODER)
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    iio.imwrite(path.with_name(f"{path.stem}_true.png"), pictures[0])
