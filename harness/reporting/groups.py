"""Which runs may be compared: same backbone, world, metrics, seed and noise. And for the others, why not.

Arms of a backbone, weights that were trained on for one kind of memory, are compared with it: which weights a run has is said.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.results.identity import DECIDES, SHARED
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.settings.nested import flatten
from harness.settings.words import short_file

ARM = "backbone.arm"


@dataclass
class Run:
    """A finished run of an experiment. values: its columns by trajectory. settings: flat, with the names of the choices."""

    path: Path
    results: dict
    records: list[Record]
    settings: dict[str, object]
    values: dict[str, dict[str, float]] = field(init=False)
    group: int = 0
    name: str = ""  # unique in the experiment

    def __post_init__(self) -> None:
        self.values = {r.name: r.values for r in self.records}

    @property
    def about(self) -> dict:
        return self.results["run"]

    @property
    def summary(self) -> dict[str, dict]:
        return self.results["summary"]

    @property
    def label(self) -> str:
        return self.about["label"]


def read_runs(experiment: Path) -> tuple[list[Run], list[str]]:
    """Finished runs, grouped and named, and the names of folders that hold unfinished ones. Raises ValueError without any."""
    if not experiment.is_dir():
        raise ValueError(f"{experiment} is not a folder; give one that holds runs, such as outputs/NAME")
    found = {path: read_run(path) for path in sorted(p for p in experiment.iterdir() if (p / "trajectories").is_dir())}
    runs, unfinished = [r for r in found.values() if r], [path.name for path, run in found.items() if run is None]
    if not runs:
        also = f" and {len(unfinished)} unfinished" if unfinished else ""
        raise ValueError(f"{experiment} has no finished runs{also}; run harness/run.py name={experiment.name} first")
    return grouped(runs), unfinished


def read_run(path: Path) -> Run | None:
    """A folder's run; None while it is unfinished."""
    folder = RunFolder(path)
    results = folder.results()
    if results is None:
        return None
    about = results["run"]
    settings = flatten({k: about["config"][k] for k in DECIDES if about["config"].get(k) is not None})
    settings = {k: v for k, v in settings.items() if not k.endswith("_target_")}
    settings |= {k: about[k] for k in ("policy", "backbone", "world", "store")}
    return Run(path, results, folder.good(results), settings)


def grouped(runs: list[Run]) -> list[Run]:
    """The same runs, with the number of their group and with names of their own."""
    _group(runs)
    _name(runs)
    return runs


def varying(runs: Sequence[Run]) -> list[str]:
    """Settings that differ between runs, the policy's first."""
    keys = dict.fromkeys(k for run in runs for k in run.settings)
    found = [k for k in keys if len({json.dumps(r.settings.get(k)) for r in runs}) > 1]
    return sorted(found, key=lambda k: (k != "policy", not k.startswith("policy"), k))


def swept(runs: Sequence[Run]) -> list[str]:
    """Settings that differ between runs of one policy: the axes of a grid."""
    found = dict.fromkeys(k for policy in {r.about["policy"] for r in runs} for k in varying([r for r in runs if r.about["policy"] == policy]))
    return [k for k in varying(runs) if k in found]


def reasons(mine: Run, other: Run) -> list[str]:
    """Why two runs of different groups are not comparable; empty for runs of one group."""
    if mine.group == other.group:
        return []
    keys = dict.fromkeys([*mine.settings, *other.settings])
    differ = [k for k in keys if k.split(".")[0] in SHARED and mine.settings.get(k) != other.settings.get(k)]
    found = [f"{k}: {_short(mine.settings.get(k))} / {_short(other.settings.get(k))}" for k in differ]
    found += [f"metric {k}: version {v} / {w}" for k, v in mine.about["metrics"].items() if (w := other.about["metrics"].get(k)) != v]
    found += ["other weights under the same name"] if _base(mine) != _base(other) else []
    found += ["other paths or pictures under the same name"] if _inputs(mine) != _inputs(other) else []
    probes = [{r.name: probed(r) for r in run.records if r.probes} for run in (mine, other)]
    found += ["other recall probes"] if any(probes[1].get(name, views) != views for name, views in probes[0].items()) else []
    return found or ["other noise"]


def probed(record: Record) -> str:
    """Which views a trajectory's recall probes asked for, and from where."""
    return json.dumps([[row.get(k) for k in ("chunk", "target", "aside_metres", "aside_degrees")] for row in record.probes])


def _base(run: Run) -> str | None:
    """The digest of the base's weights; an arm's are compared with it."""
    return run.about.get("weights", {}).get("weights")


def groups_of(runs: Sequence[Run]) -> list[list[Run]]:
    return [[r for r in runs if r.group == g] for g in sorted({r.group for r in runs})]


def _inputs(run: Run) -> str:
    """The digests of what the world read."""
    return json.dumps({k: v for k, v in sorted(run.about.get("weights", {}).items()) if k.startswith("world.")})


def other_weights(runs: Sequence[Run]) -> str:
    """Which of the runs have weights of which arm, and that differences to the others are the training's too; empty where all have the same."""
    arms = {arm: [r.name or r.label for r in runs if r.settings.get(ARM) == arm] for arm in dict.fromkeys(r.settings.get(ARM) for r in runs)}
    if len(arms) < 2:
        return ""
    named = "; ".join(f"{', '.join(names)}: {short_file(str(arm))}" for arm, names in arms.items() if arm is not None)
    return f"other weights of the same backbone ({named}): a difference between weights is their training's too, not the memory's alone"


def _group(runs: Sequence[Run]) -> None:
    """Number the groups, the largest first. Settings, the base's weights, what the world read and metric versions must agree, and of every
    trajectory that two runs share the noise, and which views were probed."""
    noise: list[tuple[tuple, dict[str, str]]] = []
    for run in runs:
        key = (run.about["comparable"], run.about["backbone"], json.dumps(run.about["metrics"], sort_keys=True), _base(run), _inputs(run))
        mine = {r.name: r.noise for r in run.records} | {f"probes of {r.name}": probed(r) for r in run.records if r.probes}
        for number, (known, theirs) in enumerate(noise):
            if known == key and all(theirs[n] == mine[n] for n in mine.keys() & theirs.keys()):
                run.group = number
                theirs |= mine
                break
        else:
            run.group = len(noise)
            noise.append((key, mine))
    sizes = Counter(r.group for r in runs)
    order = {group: rank for rank, group in enumerate(sorted(sizes, key=lambda g: (-sizes[g], g)))}
    for run in runs:
        run.group = order[run.group]


def _name(runs: Sequence[Run]) -> None:
    """A run's label; where several share it, with the settings in which these differ."""
    for run in runs:
        same = [r for r in runs if r.label == run.label]
        differ = [k for k in varying(same) if k not in ("policy", "backbone", "world", "store")]
        run.name = " ".join([run.label, *(f"{k.rpartition('.')[2]}={_short(run.settings.get(k))}" for k in differ[:3])])
    for run in runs:
        if sum(r.name == run.name for r in runs) > 1:
            run.name += f" ({run.path.name.rpartition('-')[2]})"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
