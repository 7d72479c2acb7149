"""A W&B sweep file: checked by W&B's schema, expanded by W&B's search code (package `sweeps`), turned into Hydra overrides."""

import hashlib
import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # pydantic, about an option that was renamed
    try:
        import sweeps

        sweeps.next_run  # noqa: B018  (in a checkout without the package, a folder of that name is found)
    except (ImportError, AttributeError):
        raise SystemExit("error: sweep files need the package sweeps: pip install -e '.[sweep]'") from None

from harness.settings.plugins import only_with_settings

Scalar = bool | int | float | str
PROGRAM = "harness/run.py"
COMMAND = ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
DEFAULT_METRIC = {"name": "quality/psnr_revisit", "goal": "maximize"}
YOURS = {"hydra": "give it on the command line of harness/run.py"}  # settings that say what code runs: for the user to say, not for a file
ENDLESS = 100_000  # points of a grid


@dataclass(frozen=True)
class Tried:
    """A point that the search already knows: its parameters, and the metric's value (None while it runs, NaN if it failed)."""

    parameters: dict[str, Scalar]
    value: float | None


@dataclass(frozen=True)
class SweepFile:
    """fixed: overrides that the file's command gives to every point. digest: what decides which points there are. cap: how many there
    may be, by `run_cap`, which the search package does not know."""

    name: str
    config: dict
    fixed: tuple[str, ...]
    digest: str
    cap: int | None = None

    @property
    def method(self) -> str:
        return self.config["method"]

    @property
    def metric(self) -> str:
        return self.config.get("metric", DEFAULT_METRIC)["name"]

    @property
    def sign(self) -> int:
        """1 if more of the metric is better, else -1."""
        return 1 if self.config.get("metric", DEFAULT_METRIC).get("goal", "minimize") == "maximize" else -1

    def remarks(self) -> list[str]:
        """What of the file W&B's agents do and this runner does otherwise."""
        found = []
        if "early_terminate" in self.config:
            found.append("early_terminate is left to W&B's agents: here every point runs to its end")
        if self.cap is not None:
            found.append(f"run_cap: no more than {self.cap} points")
        return found

    def reached(self, value: float) -> bool:
        """Whether the file's target, if it has one, is met."""
        target = self.config.get("metric", {}).get("target")
        return target is not None and self.sign * (value - target) >= 0

    def points(self, count: int | None) -> list[dict[str, Scalar]]:
        """All points of a grid, or the first `count` of a random search: the same ones at every start. Bayes knows none."""
        if self.method == "bayes":
            return []
        if self.method == "grid":
            found = [r for r in sweeps.next_runs(self.config, [], n=ENDLESS) if r is not None]
            return [_parameters(r) for r in found][:count]
        return [self.suggest(i, []) for i in range(count or 0)]

    def first(self) -> dict[str, Scalar]:
        """One value of every parameter that lists some, to see whether there are such settings."""
        named = _choices(self.config)
        values = {k: values[0] for k, values in named if values}
        return values | {k: v["min"] for k, v in self.config["parameters"].items() if k not in values and isinstance(v, dict) and "min" in v}

    def suggest(self, index: int, earlier: Sequence[Tried]) -> dict[str, Scalar]:
        """The next point of a search, a function of the file, the index and what is known of the earlier points."""
        seed = int(hashlib.sha256(f"{self.digest} {index}".encode()).hexdigest()[:8], 16)
        random.seed(seed)  # the package draws from these two
        np.random.seed(seed)
        found = sweeps.next_run(self.config, [_run(t, self.metric) for t in earlier])
        assert found is not None, "searches do not end"
        return _parameters(found)


def load(path: Path) -> SweepFile:
    """Read and check a sweep file. Raises ValueError that says what to change, for what W&B or the main job would not take."""
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is no sweep file: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no sweep file: it holds {type(config).__name__}, not method and parameters")
    if not isinstance(config.get("parameters", {}), dict):
        raise ValueError(f"{path} is no sweep file: parameters is {config['parameters']!r}; give names, each with its values")
    if strange := [k for k in config.get("parameters", {}) if not isinstance(k, str)]:
        raise ValueError(f"{path} is no sweep file: the parameter {strange[0]!r} is no name of a setting")
    cap = config.pop("run_cap", None)
    try:
        problems = sweeps.schema_violations_from_proposed_config(config)
    except (TypeError, ValueError, AttributeError, KeyError) as error:  # for bounds of mixed types, for instance
        problems = [str(error)]
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        problems.append(f"run_cap is {cap}; give a whole number from 1")
    command = config.get("command") or []
    if config.get("program") != PROGRAM:
        problems.append(f"program is {config.get('program')}; this runner knows {PROGRAM}")
    if not isinstance(command, list) or [c for c in command if str(c).startswith("${")] != COMMAND:
        problems.append(f"command must be [{', '.join(COMMAND)}], overrides for all points between the last two: Hydra takes key=value")
    if config.get("method") == "grid":
        problems += [f"{name}: a grid has no points between min and max; list its values, or use method random" for name in _ranges(config)]
    if config.get("method") == "bayes" and "metric" not in config:
        problems.append("method bayes needs a metric")
    problems += [f"{name}: {value!r} is no plain value" for name, values in _choices(config) for value in values if not _plain(value)]
    parameters = config.get("parameters")
    keys = [str(k) for k in parameters] if isinstance(parameters, dict) else []
    keys += [str(c).partition("=")[0] for c in command if not str(c).startswith("${")] if isinstance(command, list) else []
    given = [str(c) for c in command if str(c).startswith("plugins=")] if isinstance(command, list) else []
    if "plugins" in keys and (not given or not only_with_settings(given)):
        problems.append("plugins: a sweep file may name packages with settings of their own (a folder conf/), in its command; name others on the command line")
    for key in keys:
        if (root := key.lstrip("+~").partition(".")[0].partition("/")[0]) in YOURS:
            problems.append(f"{key}: a sweep file may not set {root}; {YOURS[root]}")
    if problems:
        raise ValueError(f"{path}: " + "; ".join(problems))
    fixed = tuple(str(c) for c in command if not str(c).startswith("${"))
    decides = {k: config.get(k) for k in ("method", "metric", "parameters")}
    digest = hashlib.sha256(json.dumps([decides, fixed], sort_keys=True).encode()).hexdigest()[:8]
    return SweepFile(config.get("name", path.stem), config, fixed, digest, cap)


def overrides_of(parameters: dict[str, Scalar]) -> tuple[str, ...]:
    """As the agent's ${args_no_hyphens} writes them."""
    return tuple(f"{k}={v}" for k, v in parameters.items())


def _ranges(config: dict) -> list[str]:
    """Parameters that are given by their ends or by a distribution, and not as whole or rounded numbers between two ends, which a grid can count."""
    parameters = config.get("parameters")
    entries = [(k, v) for k, v in parameters.items() if isinstance(v, dict)] if isinstance(parameters, dict) else []
    whole = [k for k, v in entries if isinstance(v.get("min"), int) and isinstance(v.get("max"), int) and v.get("distribution", "int_uniform") == "int_uniform"]
    counted = {*whole, *(k for k, v in entries if v.get("distribution") == "q_uniform")}
    return [k for k, v in entries if not {"value", "values", "parameters"} & v.keys() and k not in counted]


def _choices(config: dict) -> list[tuple[str, list]]:
    parameters = config.get("parameters")
    entries = [(k, v) for k, v in parameters.items() if isinstance(v, dict)] if isinstance(parameters, dict) else []
    return [(k, _values(v)) for k, v in entries]


def _values(entry: dict) -> list:
    listed = entry["values"] if isinstance(entry.get("values"), list) else []
    return [*listed, *([entry["value"]] if "value" in entry else []), *([entry] if "parameters" in entry else [])]


def _plain(value: object) -> bool:
    """What passes through a command line into Hydra unchanged. None would arrive as the text 'None'."""
    return isinstance(value, bool | int | float) or (isinstance(value, str) and not set(value) & set(",={}[]'\""))


def _parameters(run: sweeps.SweepRun) -> dict[str, Scalar]:
    """Plain Python values: the search also returns NumPy's."""
    return {k: v["value"].item() if isinstance(v["value"], np.generic) else v["value"] for k, v in run.config.items()}


def _run(tried: Tried, metric: str) -> sweeps.SweepRun:
    config = {k: {"value": v} for k, v in tried.parameters.items()}
    if tried.value is None:
        return sweeps.SweepRun(config=config, state=sweeps.RunState.running)
    if tried.value != tried.value:
        return sweeps.SweepRun(config=config, state=sweeps.RunState.failed)
    return sweeps.SweepRun(
        config=config, state=sweeps.RunState.finished, summaryMetrics={metric: tried.value}
    )  # by its alias: the other name is ignored in silence
