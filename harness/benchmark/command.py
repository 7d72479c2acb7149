"""Where the time of a chunk goes, policy by policy, and how far it is from attention over a ready-made window.

python harness/bench.py                                    the cache modes of the reference on a mid-size network, in minutes
python harness/bench.py backbone=rooms chunk=12            another backbone, another chunk
python harness/bench.py backbone=lingbot backbone.weights=random backbone.device=cuda   published sizes, on a GPU
python harness/bench.py backbone=rooms modes=trained chunk=40   trained memories, each on its own weights
python harness/bench.py '+modes.mine=["policy=worldkv", "policy.retrieved=15"]'         another mode
python harness/bench.py repeats=5 docs=docs/performance.md out=bench.json               written down

Stop it with Ctrl-C: it shows what it has. Settings: conf/bench.yaml.
"""

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from rich.console import Console

from harness.benchmark.table import Figure, markdown, summary, terminal
from harness.settings.build import plain
from harness.settings.check import check_fields
from harness.settings.command_line import CONF, understood
from harness.settings.entry_point import entry_point
from harness.settings.main_job import Threads
from harness.settings.plugins import with_plugins
from harness.settings.ranges import Count, Le, Len, Seed
from harness.system.files import write_atomic
from harness.system.stopping import Stopped

GROUPS = ("backbone", "store")  # built elsewhere
Samples = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class BenchSettings:
    """Those that belong to no group."""

    chunk: Annotated[Count, Le(100_000)]
    repeats: Annotated[Count, Le(100_000)]
    threads: Threads
    seed: Seed
    docs: str | None
    out: str | None
    modes: Annotated[Mapping[str, Annotated[Sequence[str], Len(1)]], Len(1)]
    plugins: Sequence[str]


def settings(arguments: list[str]) -> DictConfig:
    """The config of a bench. Raises HydraException for settings that there are not."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("bench", with_plugins(arguments))
    finally:
        GlobalHydra.instance().clear()


def checked(cfg: DictConfig) -> None:
    """Raises ValueError for settings that cannot work. The model's and the policies' are checked as they are built, which is before anything is measured."""
    check_fields({k: v for k, v in plain(cfg).items() if k not in GROUPS}, BenchSettings)


def collect(cfg: DictConfig, say: Callable[[str], None]) -> tuple[Samples, Stopped | None]:
    """Measure until all is measured or somebody stops it: the samples so far, and who did."""
    import torch  # seconds: --help and typos are answered before

    from harness.benchmark.measure import measure

    torch.set_num_threads(cfg.threads)
    samples: Samples = {}
    for file in filter(None, (cfg.out, cfg.docs)):
        Path(file).parent.mkdir(parents=True, exist_ok=True)  # what cannot be made is said before the measurements
    try:
        for i, (name, row) in enumerate(measure(cfg), 1):
            samples.setdefault(name, []).append(row)
            say(f"[{i}/{cfg.repeats * len(cfg.modes)}] {name}: chunk {row['chunk s']:.3g} s, chunk / contiguous {row['chunk / contiguous']:.3f}")
    except Stopped as stop:
        return samples, stop
    return samples, None


@entry_point("nothing was measured yet")
def main() -> None:
    """Entry point of the script and of `worldkv bench`."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    cfg = settings(understood(sys.argv[1:]))
    checked(cfg)
    print(f"chunk {cfg.chunk} of {_model(cfg.backbone)}: {len(cfg.modes)} modes, {cfg.repeats} repeats", file=sys.stderr, flush=True)
    samples, stop = collect(cfg, lambda line: print(line, file=sys.stderr, flush=True))
    if samples:
        _show(cfg, summary(samples), stop is not None)
    if stop is not None:
        print(f"stopped after {sum(map(len, samples.values()))} of {cfg.repeats * len(cfg.modes)} measurements", file=sys.stderr)
        raise SystemExit(stop.status)


def _show(cfg: DictConfig, rows: dict[str, dict[str, Figure]], stopped: bool) -> None:
    from harness.benchmark.stopwatch import Stopwatch
    from harness.results.provenance import provenance
    from harness.system.devices import chosen_device

    device = chosen_device(cfg.backbone.device)
    counts = sorted({row["chunk s"].n for row in rows.values()})
    repeats = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    about = {**provenance(device), "clock": f"{Stopwatch(device).clock}, medians of {repeats}", "model": _model(cfg.backbone)}
    table = terminal(rows, f"chunk {cfg.chunk} of {about['model']} on {about['device']}, {about['clock']}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if cfg.out:
        figures = {name: {c: asdict(figure) for c, figure in row.items()} for name, row in rows.items()}
        write_atomic(Path(cfg.out), json.dumps({"rows": figures, "about": about, "stopped": stopped}, indent=1) + "\n")
    if cfg.docs and not stopped:  # a page is of a whole bench
        write_atomic(Path(cfg.docs), markdown(rows, about, "python harness/bench.py " + shlex.join(sys.argv[1:])))


def _model(backbone: DictConfig) -> str:
    """What is timed: the loader, its sizes, and whether its weights mean anything."""
    pixels = "x".join(map(str, backbone.get("size") or ()))
    sizes = [f"{pixels} pixels"] * bool(pixels) + [f"{k} {v}" for k, v in (backbone.get("sizes") or {"published": "sizes"}).items()]
    made = backbone._target_.removeprefix("backbones.").removesuffix(".load")
    return f"{made} ({', '.join(sizes)}) with random weights" if backbone.get("weights") == "random" else made
