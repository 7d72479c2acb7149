"""Where the time of a chunk goes, policy by policy, and how far it is from attention over a ready-made window.

python harness/bench.py                                    the cache modes of conf/bench.yaml on a mid-size network, in minutes
python harness/bench.py backbone=rooms chunk=12            another backbone, another chunk
python harness/bench.py backbone=lingbot backbone.weights=random backbone.device=cuda   published sizes, on a GPU
python harness/bench.py '+modes.mine=["policy=worldkv", "policy.retrieved=15"]'         another mode
python harness/bench.py repeats=5 docs=docs/performance.md out=bench.json               written down

Stop it with Ctrl-C: it shows what it has. Settings: conf/bench.yaml.
"""

import json
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from rich.console import Console

from harness.benchmark.table import Figure, markdown, summary, terminal
from harness.settings.command_line import CONF, understood
from harness.settings.plugins import with_plugins

Samples = dict[str, list[dict[str, float]]]


def settings(arguments: list[str]) -> DictConfig:
    """The config of a bench. Raises HydraException for settings that there are not."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("bench", with_plugins(arguments))
    finally:
        GlobalHydra.instance().clear()


def collect(cfg: DictConfig, say: Callable[[str], None]) -> tuple[Samples, int]:
    """Measure until all is measured or somebody stops it: the samples so far, and the exit status (0, 130 or 143)."""
    import torch  # seconds: --help and typos are answered before

    from harness.benchmark.measure import measure

    torch.set_num_threads(cfg.threads)
    samples: Samples = {}
    try:
        with _terminable():
            for i, (name, row) in enumerate(measure(cfg), 1):
                samples.setdefault(name, []).append(row)
                say(f"[{i}/{cfg.repeats * len(cfg.modes)}] {name}: chunk {row['chunk s']:.3g} s, chunk / contiguous {row['chunk / contiguous']:.3f}")
    except KeyboardInterrupt:
        return samples, 130
    except _Terminated:
        return samples, 143
    return samples, 0


def main() -> None:
    """Entry point of the script and of `worldkv bench`."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(__doc__)
        return
    try:
        cfg = settings(understood(sys.argv[1:]))
    except HydraException as error:
        raise SystemExit(f"error: {error}\n(--help shows examples; conf/bench.yaml has all settings)") from None
    print(f"chunk {cfg.chunk} of {_model(cfg.backbone)}: {len(cfg.modes)} modes, {cfg.repeats} repeats", file=sys.stderr, flush=True)
    try:
        samples, status = collect(cfg, lambda line: print(line, file=sys.stderr, flush=True))
    except (ValueError, OSError, InstantiationException) as error:
        raise SystemExit(f"error: {error.__cause__ or error}") from None
    if samples:
        _show(cfg, summary(samples), status)
    if status:
        print(f"stopped after {sum(map(len, samples.values()))} of {cfg.repeats * len(cfg.modes)} measurements", file=sys.stderr)
    raise SystemExit(status)


def _show(cfg: DictConfig, rows: dict[str, dict[str, Figure]], status: int) -> None:
    import torch

    from harness.benchmark.timing import Stopwatch
    from harness.results.provenance import provenance

    device = torch.device("cuda" if torch.cuda.is_available() and cfg.backbone.device != "cpu" else "cpu")
    counts = sorted({row["chunk s"].n for row in rows.values()})
    repeats = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    about = {**provenance(device), "clock": f"{Stopwatch(device).clock}, medians of {repeats}", "model": _model(cfg.backbone)}
    table = terminal(rows, f"chunk {cfg.chunk} of {about['model']} on {about['device']}, {about['clock']}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if cfg.out:
        figures = {name: {c: asdict(figure) for c, figure in row.items()} for name, row in rows.items()}
        Path(cfg.out).write_text(json.dumps({"rows": figures, "about": about, "stopped": bool(status)}, indent=1) + "\n")
    if cfg.docs and not status:  # a page is of a whole bench
        Path(cfg.docs).write_text(markdown(rows, about, "python harness/bench.py " + shlex.join(sys.argv[1:])))


def _model(backbone: DictConfig) -> str:
    """What is timed: the loader, its sizes, and whether its weights mean anything."""
    pixels = "x".join(map(str, backbone.get("size") or ()))
    sizes = [f"{pixels} pixels"] * bool(pixels) + [f"{k} {v}" for k, v in (backbone.get("sizes") or {"published": "sizes"}).items()]
    made = backbone._target_.removeprefix("backbones.").removesuffix(".load")
    return f"{made} ({', '.join(sizes)}) with random weights" if backbone.get("weights") == "random" else made


class _Terminated(BaseException):
    """SIGTERM, as a scheduler sends it."""


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
