"""Where the time of a chunk goes, policy by policy, and how far it is from attention over a ready-made window.

python harness/bench.py                                    the cache modes of conf/bench.yaml on a mid-size network
python harness/bench.py backbone=rooms chunk=12            another backbone, another chunk
python harness/bench.py backbone=lingbot backbone.weights=random backbone.device=cuda   published sizes, on a GPU
python harness/bench.py '+modes.mine=[policy=worldkv, policy.retrieved=18]'             another mode
python harness/bench.py docs=docs/performance.md out=bench.json                         written down
"""

import json
import shlex
import sys
from datetime import date
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from harness.benchmark.timing import PARTS, Stopwatch, time_contiguous, time_last_chunk
from harness.datatypes import Geometry, Trajectory
from harness.results.provenance import provenance
from harness.settings.command_line import CONF
from harness.worlds.poses import pinhole, rotation

COLUMNS = ("chunk s", "frames", "attention", *(f"{part} ms" for part in PARTS), "overhead / attention", "chunk / contiguous")
EXPLAINED = """A chunk is all denoising passes and the clean pass. *frames*: attended, the chunk's own included, in frame-equivalents. *attention*: its
share of the chunk. Parts are exclusive of one another: *plan* chooses, *assembly* brings the window together (and is whatever else the
loop does), *rope* rotates, *write* puts the chunk's rows into the window, *network* is everything else in the model, *commit* stores and
compresses. *overhead* is plan + assembly + write + commit. *contiguous*: the same network with attention over prepared keys and values of
the same number of rows, where nothing is rotated, written or selected; measured in the same run. Medians."""


def there_and_back(g: Geometry, chunks: int, size: tuple[int, int]) -> Trajectory:
    """A turn to the right for half of the rollout, and back: retrieval has something to find."""
    frames = g.frames_px(chunks * g.chunk)
    half = torch.arange(frames, dtype=torch.float32)
    yaw = torch.minimum(half, frames - 1 - half) * 180 / frames
    c2w = torch.eye(4).repeat(frames, 1, 1)
    c2w[:, :3, :3] = rotation(yaw, torch.zeros(frames))
    actions = torch.zeros(frames, 6)
    actions[1:, 4] = yaw.diff()
    return Trajectory("bench", c2w, pinhole(80.0, size, frames), actions, torch.full((g.chunk, 3, *size), 0.5), ())


def measure(cfg: DictConfig) -> dict[str, dict[str, float]]:
    """Medians by mode: one row of the table each. Modes take turns, so that the machine's moods are shared."""
    backbone = instantiate(cfg.backbone, _convert_="all")
    g: Geometry = backbone.geometry
    trajectory = there_and_back(g, cfg.chunk + 1, backbone.size)
    rng = torch.Generator().manual_seed(cfg.seed)
    past = torch.cat([backbone.noise(rng)[0].cpu() for _ in range(cfg.chunk)])
    policies = {name: instantiate(_policy(settings), _convert_="all") for name, settings in cfg.modes.items()}
    times: dict[str, list] = {name: [] for name in policies}
    bare: dict[str, list[float]] = {name: [] for name in policies}
    for repeat in range(cfg.repeats + 1):
        for name, policy in policies.items():
            timed = time_last_chunk(backbone, policy, instantiate(cfg.store), trajectory, cfg.seed, past)
            contiguous = time_contiguous(backbone, trajectory, timed.rows)
            if repeat:  # the first warms up
                times[name].append(timed)
                bare[name].append(contiguous)
    rows = {}
    for name, runs in times.items():
        parts = {part: median(r.seconds[part] for r in runs) for part in PARTS}
        rows[name] = {
            "chunk s": median(r.total for r in runs),
            "frames": runs[0].rows / g.tokens,
            "attention": median(r.seconds["attention"] / r.total for r in runs),
            **{f"{part} ms": 1e3 * seconds for part, seconds in parts.items()},
            "overhead / attention": median(r.overhead / r.seconds["attention"] for r in runs),
            "chunk / contiguous": median(r.total / c for r, c in zip(runs, bare[name], strict=True)),
        }
    return rows


def _policy(settings: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(settings)).policy


def _model(backbone: DictConfig) -> str:
    """What was timed: the loader, its sizes, and whether its weights mean anything."""
    sizes = ", ".join(f"{k} {v}" for k, v in (backbone.get("sizes") or {}).items()) or "published sizes"
    made = backbone._target_.removeprefix("backbones.").removesuffix(".load")
    return f"{made} ({sizes}) with random weights" if backbone.get("weights") == "random" else made


def _cell(column: str, value: float) -> str:
    if column in ("attention", "overhead / attention"):
        return f"{100 * value:.1f} %"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def markdown(rows: dict[str, dict[str, float]], about: dict, command: str) -> str:
    """The page of the table."""
    lines = [
        "# Where the time of a chunk goes",
        "",
        f"`{command}` on {about['device']}, {date.today()}, PyTorch {about['versions']['torch']};",
        f"{about['clock']}.",
    ]
    lines += ["", "| mode | " + " | ".join(COLUMNS) + " |", "| --- " * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(_cell(c, row[c]) for c in COLUMNS) + " |" for name, row in rows.items()]
    return "\n".join([*lines, "", EXPLAINED, ""])


def main() -> None:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("bench", sys.argv[1:])
    except HydraException as error:
        raise SystemExit(f"error: {error}\n(--help shows examples; conf/bench.yaml has all settings)") from None
    torch.set_num_threads(cfg.threads)
    rows = measure(cfg)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.backbone.device != "cpu" else "cpu")
    about = {**provenance(device), "clock": f"{Stopwatch(device).clock}, medians of {cfg.repeats} after a warm-up", "model": _model(cfg.backbone)}
    table = Table(title=f"chunk {cfg.chunk} of {about['model']} on {about['device']}, {about['clock']}", caption=" ".join(EXPLAINED.replace("*", "").split()))
    for column in ("mode", *COLUMNS):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for name, row in rows.items():
        table.add_row(name, *(_cell(c, row[c]) for c in COLUMNS))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if cfg.out:
        Path(cfg.out).write_text(json.dumps({"rows": rows, "about": about}, indent=1) + "\n")
    if cfg.docs:
        Path(cfg.docs).write_text(markdown(rows, about, "python harness/bench.py " + shlex.join(sys.argv[1:])))


if __name__ == "__main__":
    main()
