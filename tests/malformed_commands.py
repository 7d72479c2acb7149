"""Malformed input put to every command, each case in a process of its own: python -m tests.malformed_commands [CASES]

CASES: a command at most, 60 unless given. Writes the table of docs/reliability.md. A case ends cleanly (a line that says what is wrong,
status 1 or 2), in a traceback, in a hang over 20 seconds, or with status 0: it was accepted.
"""

import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from harness.__main__ import COMMANDS
from harness.settings.command_line import ROOT, TEXTS
from tests.made_runs import make_run
from tests.malformed import CANDIDATES, accepts, malformed, sites

PAGE = ROOT / "docs" / "reliability.md"
TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "videos=0", "progress=false"]
PATIENCE = 20.0  # seconds
Case = tuple[str, ...]


def text(value: Any) -> str:
    """As one types it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        return "nan" if math.isnan(value) else str(value)
    if isinstance(value, list):
        return f"[{','.join(map(text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{k}: {text(v)}' for k, v in value.items())}}}"
    return f"'{value}'" if isinstance(value, str) else str(value)


def flat(declared: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(declared):
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            yield from flat(field.type, f"{prefix}{field.name}.")
        elif "Phase" not in str(field.type) and "Any" not in str(field.type):
            yield f"{prefix}{field.name}", field.type


def of_fields(declared: type, leave_out: tuple[str, ...] = ()) -> list[Case]:
    found = [(name, v) for name, kind in flat(declared) if name not in leave_out for v in CANDIDATES if not accepts(kind, v) and v != "a\x00b"]
    return [(f"{name}={text(v)}",) for name, v in found if not (name in TEXTS and isinstance(v, int | float))]  # name=2025 is a name as one types it


def of_groups(*groups: str) -> list[Case]:
    found = []
    for site in sites():
        if site.group in groups and not site.where.startswith("backbone") and not any("recorded" in o or "scenes" in o for o in site.overrides):
            some = [v for v in malformed(site) if v not in ({}, "a\x00b")]  # Hydra merges an empty mapping into what is there
            found += [(*site.overrides, f"{site.where}={text(v)}") for v in some]
    return found


def cases(folder: Path) -> dict[str, list[Case]]:
    from harness.benchmark.command import BenchSettings
    from harness.replaying.command import ReplaySettings
    from harness.settings.main_job import MainSettings
    from harness.training.settings import TrainSettings

    def tiny(some: list[Case]) -> list[Case]:
        return [(*[t for t in TINY if t.partition("=")[0] not in {a.partition("=")[0] for a in case}], *case) for case in some]

    main = of_fields(MainSettings, ("published",))
    model = [(f"backbone.{k}={text(v)}",) for k in ("seed", "device", "dtype") for v in (None, "x", -1)]
    found = {
        "run": tiny([*main, *of_groups("policy", "world", "store"), *model]),
        "train": [("out=t", "device=cpu", "workers=0", *case) for case in of_fields(TrainSettings, ("out", "start"))],
        "calibrate": tiny([*of_groups("world"), *of_fields(MainSettings, ("published", "run_dir", "notes"))]),
        "bench": [("backbone=rooms_tiny", "repeats=1", "chunk=2", *case) for case in of_fields(BenchSettings, ("out", "docs"))],
        "replay": [("world=houses_tiny", "world.trajectories=1", *case) for case in [*of_fields(ReplaySettings, ("recorded",)), *of_groups("policy", "world")]],
        "play": tiny([*of_groups("policy", "world"), *_of_page()]),
    }
    sweeps = []
    good = {"program": "harness/run.py", "command": ["${env}", "${interpreter}", "${program}", "name=s", "${args_no_hyphens}"], "method": "grid"}
    good |= {"parameters": {"policy": {"values": ["full"]}}}
    for i, value in enumerate(v for v in CANDIDATES if v != "a\x00b"):
        for key in good:
            (folder / f"s{key}{i}.yaml").write_text(yaml.safe_dump(good | {key: value}))
            sweeps.append((str(folder / f"s{key}{i}.yaml"),))
    (folder / "good.yaml").write_text(yaml.safe_dump(good))
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    sweeps += [(str(folder / "good.yaml"), c) for c in ("jobs=0", "jobs=x", "count=-1", "seed=abc", "policy.typo=3", "name=../x", "threads=99999")]
    sweeps += [(str(folder / "bytes.yaml"),), ("nowhere.yaml",), (), ("a.yaml", "b.yaml"), (str(folder),)]
    found["sweep"] = [(*case, *(t for t in TINY if case)) for case in sweeps]
    experiment = folder / "experiment"
    make_run(experiment, "full")
    nan = make_run(folder / "nan", "full")
    (nan / "results.json").write_text((nan / "results.json").read_text().replace('"mean": ', '"mean": NaN, "was": '))
    (folder / "empty").mkdir()
    (folder / "torn" / "run" / "trajectories").mkdir(parents=True)
    (folder / "torn" / "run" / "results.json").write_bytes(b"\xff{")
    places = [str(folder / p) for p in ("nan", "empty", "torn", "good.yaml", "nowhere")]
    wrong = [("--formt=md",), ("--format=doc",), ("--films=x",), ("--baseline=nobody",), ("--out=/proc/nowhere",)]
    found["report"] = [*((p,) for p in places), (), *((str(experiment), *w) for w in wrong), (places[0], "--no-page"), (str(experiment), "another")]
    found["score"] = [*((p,) for p in places), (), *((places[1], s) for s in ("seed=abc", "world.fov=nan", "world.layout=x", "typo=3", "name=../x"))]
    found["docs"] = [*((p,) for p in places), ("--nothing",), ("-x",)]
    found["dashboard"] = [(), ("a", "b"), ("a", "typo=3"), ("a", "only=all"), ("a",), *(("a", f"sweep={p}") for p in (*places, str(folder / "bytes.yaml")))]
    return found


def _of_page() -> list[Case]:
    numbers = [(f"{name}={v}",) for name in ("port", "linger", "start", "width", "seconds") for v in ("abc", "", "-5", "nan", "1e99", "null", "[1]")]
    others = ["policy=nobody", "policy=", "budget=w99", "open=nowhere", "script=keys.txt", "film=x.mp4", "nothing", "--typo", "host="]
    return [*numbers, *((o,) for o in others)]


def outcome(command: str, case: Case, folder: Path) -> tuple[str, str]:
    """What became of a case, and what it printed."""
    log = folder / "log.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(target, number)
        sys.argv = [command, *case]
        status = 0
        try:
            import_module(COMMANDS[command]).main()
        except SystemExit as ended:
            if isinstance(ended.code, str):
                print(ended.code, file=sys.stderr)
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException:  # noqa: BLE001
            import traceback

            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    until = time.monotonic() + PATIENCE
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "hangs", log.read_text(errors="replace")
        time.sleep(0.01)
    said = log.read_text(errors="replace")
    if "Traceback" in said or os.WIFSIGNALED(ended[1]):
        return "tracebacks", said
    return ("accepted" if os.waitstatus_to_exitcode(ended[1]) == 0 else "clean errors"), said


def table(found: dict[str, Counter[str]]) -> str:
    rows = ["| command | cases | clean errors | tracebacks | hangs | accepted |", "| --- | --- | --- | --- | --- | --- |"]
    for command, counts in [*found.items(), ("all", sum(found.values(), Counter[str]()))]:
        rows.append(f"| {command} | {counts.total()} | " + " | ".join(str(counts[k]) for k in ("clean errors", "tracebacks", "hangs", "accepted")) + " |")
    return "\n".join(rows)


def main() -> int:
    import harness.evaluation.evaluate
    import harness.playing.serving
    import harness.training.train  # noqa: F401  (imported once, by the process that all cases are forks of)

    most, draw, found = int(sys.argv[1]) if len(sys.argv) > 1 else 60, random.Random(0), dict[str, Counter[str]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command, some in cases(folder).items():
            counts = found.setdefault(command, Counter())
            for case in draw.sample(some, min(most, len(some))):
                how, said = outcome(command, case, folder)
                counts[how] += 1
                if how != "clean errors":
                    print(f"{how}: {command} {' '.join(case)}\n{said[-1500:]}", flush=True)
                shutil.rmtree(folder / "outputs", ignore_errors=True)
            print(f"{command}: {dict(counts)}", flush=True)
    _write(lambda text: re.sub(r"(<!-- malformed -->\n).*?(<!-- /malformed -->)", rf"\1{table(found)}\n\2", text, flags=re.S))
    return int(any(counts["clean errors"] != counts.total() for counts in found.values()))


def _write(change: Callable[[str], str]) -> None:
    PAGE.write_text(change(PAGE.read_text()))


if __name__ == "__main__":
    raise SystemExit(main())
