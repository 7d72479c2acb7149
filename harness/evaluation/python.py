"""The main job from Python: in a script or a notebook.

from harness import evaluate, compare

run = evaluate("worldkv", "world.trajectories=4")
pandas.DataFrame(run.pairs)
both = compare(["full", "sliding", MyPolicy(step=2)], "world.trajectories=4")
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.evaluation import evaluate as main_job
from harness.evaluation.multirun import folder_of
from harness.evaluation.objects import label_of_object, settings_of
from harness.policy import CachePolicy
from harness.reporting import table, text
from harness.reporting.groups import Run, grouped, read_run
from harness.settings.build import build as build_part
from harness.settings.command_line import CONF, check_overrides, composed, label_of
from harness.settings.plugins import plugins_of
from harness.worlds.base import World

Row = dict[str, float | str]
PICTURES = ("frames.png", "chunks.png")


class Parts(NamedTuple):
    """What a `Session` begins with."""

    backbone: Backbone
    policy: CachePolicy
    store: PackedStore
    world: World


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A finished run. path: its folder. results: what results.json holds. Tables are lists of rows: `pandas.DataFrame(run.pairs)`."""

    path: Path
    results: dict

    @property
    def label(self) -> str:
        return self.results["run"]["label"]

    @property
    def summary(self) -> dict[str, dict]:
        """By column: mean over trajectories, 95 % interval (`ci95`) and count (`n`)."""
        return self.results["summary"]

    @property
    def failed(self) -> dict[str, str]:
        """Trajectories that have no result, and why."""
        return self.results["run"]["failed"]

    def __getitem__(self, column: str) -> float:
        """The mean of a column, such as `run["quality/psnr_revisit"]`. Raises KeyError with the columns that there are."""
        if column not in self.summary:
            raise KeyError(f"{column}; there are {', '.join(self.summary)}")
        return self.summary[column]["mean"]

    @cached_property
    def _records(self):
        return self._run.records

    @property
    def trajectories(self) -> list[Row]:
        """A row a trajectory: its name and every column."""
        return [{"trajectory": r.name, **r.values} for r in self._records]

    @property
    def pairs(self) -> list[Row]:
        """A row a revisit pair: video frames of first visit and revisit, gap, scores."""
        return [{"trajectory": r.name, **row} for r in self._records for row in r.pairs]

    @property
    def chunks(self) -> list[Row]:
        """A row a chunk: seconds, bytes, rows attended, frames brought back."""
        return [{"trajectory": r.name, **row} for r in self._records for row in r.chunks]

    @property
    def probes(self) -> list[Row]:
        """A row a recall probe, where there were any."""
        return [{"trajectory": r.name, **row} for r in self._records for row in r.probes]

    @property
    def pictures(self) -> dict[str, Path]:
        """frames (best and worst revisit pairs) and chunks (cost over the rollout)."""
        return {name.removesuffix(".png"): self.path / name for name in PICTURES if (self.path / name).exists()}

    @property
    def videos(self) -> list[Path]:
        return sorted((self.path / "videos").glob("*.mp4"))

    def __repr__(self) -> str:
        return table.headline(self.label, self.results)

    @property
    def _run(self) -> Run:
        run = read_run(self.path)
        if run is None:
            raise ValueError(f"{self.path} holds no finished run any more; evaluate it again")
        return run

    def _repr_html_(self) -> str:
        return text.html(grouped([self._run]), "") + "".join(map(_image, [*self.pictures.values()][:1]))


@dataclass(frozen=True, repr=False)
class Comparison:
    """Runs that differ by the policy alone. baseline: the label that differences are to; paired over trajectories."""

    runs: tuple[Evaluation, ...]
    baseline: str

    def __getitem__(self, label: str) -> Evaluation:
        """The run of a label. Raises KeyError with the labels that there are."""
        for run in self.runs:
            if run.label == label:
                return run
        raise KeyError(f"{label}; there are {', '.join(r.label for r in self.runs)}")

    @property
    def table(self) -> list[dict[str, str]]:
        """A row a run, the best quality first: every column as text, with its interval and its difference to the baseline."""
        return text.table(self._found, self.baseline)

    @property
    def _found(self) -> list[Run]:
        return grouped([run._run for run in self.runs])

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.runs))

    def _repr_html_(self) -> str:
        return text.html(self._found, self.baseline)


def evaluate(
    policy: str | CachePolicy = "worldkv",
    *settings: str,
    backbone: str | Backbone | None = None,
    world: str | World | None = None,
    metrics: str | Sequence[object] | None = None,
    label: str | None = None,
    quiet: bool = True,
) -> Evaluation:
    """Run what is missing of one evaluation, as `python harness/run.py policy=...` does, and return it.

    policy, backbone, world, metrics: a name of the settings groups, or an object. settings: as on the command line
    ("world.trajectories=4", "store=cpu", "plugins=[mypkg]"). label: what tables call it. quiet: print nothing but warnings and
    progress. Results lie in outputs/NAME/ of the working folder, and the same settings find them again.
    Raises ValueError for settings that cannot work, OSError for files that cannot be read or written.
    """
    return _evaluate(policy, settings, backbone, world, metrics, label, quiet)


def _evaluate(
    policy: str | CachePolicy,
    settings: Sequence[str],
    backbone: str | Backbone | None = None,
    world: str | World | None = None,
    metrics: str | Sequence[object] | None = None,
    label: str | None = None,
    quiet: bool = True,
    several: bool = False,
) -> Evaluation:
    given = {"policy": policy, "backbone": backbone, "world": world, "metric": metrics}
    objects = {group: value for group, value in given.items() if value is not None and not isinstance(value, str)}
    overrides = [*_named(given), *settings]
    cfg, choices = _composed(overrides)
    label = label or _label(policy, overrides)
    with open_dict(cfg):
        for group, thing in objects.items():
            described: dict[str, Any] = {m.name: settings_of(m) for m in thing} if group == "metric" else settings_of(thing)
            if isinstance(thing, Backbone):
                described["device"] = thing.geometry.device.type
            cfg[group] = OmegaConf.create(described)
            choices[group] = "+".join(described) if group == "metric" else type(thing).__name__
    results = main_job.evaluate(cfg, choices, label, False, given=objects, out=Console(quiet=quiet), several=several)
    return Evaluation(folder_of(cfg, choices["policy"]), results)


def build(policy: str = "worldkv", *settings: str) -> Parts:
    """The backbone, policy, store and world that these settings name, for a `Session`. Raises ValueError, OSError as `evaluate`."""
    cfg, _ = _composed([f"policy={policy}", *settings])
    packages = plugins_of([f"plugins=[{','.join(cfg.plugins)}]"])
    return Parts(*(build_part(cfg[group], group, plugins=packages) for group in Parts._fields))


def compare(policies: Sequence[str | CachePolicy], *settings: str, baseline: str = "", **others) -> Comparison:
    """Evaluate several policies on the same trajectories with the same noise. baseline: a label (default: the first policy's).

    settings, others: as for `evaluate`. Raises ValueError without a policy, and as `evaluate`.
    """
    if not policies:
        raise ValueError("compare() needs at least one policy, such as compare(['full', 'worldkv'])")
    asked = {"backbone": others.get("backbone"), "world": others.get("world"), "metric": others.get("metrics")}
    labels = [_label(p, [*_named({"policy": p} | asked), *settings]) for p in policies]
    if twice := [label for label in dict.fromkeys(labels) if labels.count(label) > 1]:
        raise ValueError(f"several of the {len(policies)} policies are called {', '.join(twice)}; evaluate each with a label of its own")
    if baseline and baseline not in labels:
        raise ValueError(f"baseline={baseline!r} is none of the runs: {', '.join(labels)}")
    runs = tuple(_evaluate(policy, settings, several=True, **others) for policy in policies)
    return Comparison(runs, baseline or runs[0].label)


def _named(given: Mapping[str, object]) -> list[str]:
    return [f"{group}={value}" for group, value in given.items() if isinstance(value, str)]


def _label(policy: str | CachePolicy, overrides: list[str]) -> str:
    """What tables call a run of it. Raises ValueError for settings that there are not."""
    return label_of(*_composed(overrides), overrides) if isinstance(policy, str) else label_of_object(policy)


def _composed(overrides: list[str]) -> tuple[DictConfig, dict[str, str]]:
    try:
        check_overrides(CONF, overrides)
        return composed(CONF, overrides)
    except (HydraException, SystemExit) as error:
        raise ValueError(str(error).removeprefix("error: ")) from None


def _image(path: Path) -> str:
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'
