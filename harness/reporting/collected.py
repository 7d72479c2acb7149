"""The comparison of an experiment's runs as one small file in docs/results."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from harness.reporting.audited import KEYS as AUDITED
from harness.reporting.audited import NAMES as AUDITS
from harness.reporting.benches import BENCH_KEPT, BENCHES, CURVES, KEPT, PICTURES
from harness.reporting.columns import columns_of
from harness.reporting.crossed import KEYS
from harness.reporting.crossed import NAME as CROSSED
from harness.reporting.gains import BYTES
from harness.reporting.media import filmstrips
from harness.reporting.noise import KEY as OTHER_SEEDS
from harness.reporting.noise import by_first_seed, by_seed, from_themselves
from harness.reporting.recall_plot import recall_plot
from harness.reporting.table import BASELINE, FinishedRun, finished_runs
from harness.results.run_folder import RunFolder
from harness.results.statistics import paired
from harness.settings.command_line import ROOT
from harness.system.files import write_atomic

RESULTS = ROOT / "docs" / "results"
HERO = ("full", "worldkv", "sliding")
ALIKE = ("world", "protocol", "seed", "trajectories", "noise", "comparable", "metrics", "weights", "probes")  # of the parts of a table
# columns of which every trajectory's value is kept, by table
VALUES = {CROSSED: tuple(KEYS.values()), BYTES: tuple(KEYS.values())} | dict.fromkeys(AUDITS, AUDITED)
SAME_DB = 0.05  # between two machines' runs of the policy that the others are compared with; float sums differ


def hero(runs: list[FinishedRun]) -> None:
    """docs/frames.png: the first filmed trajectory under the policies of the README's first picture."""
    chosen = {r.label: r.path / "videos" for r in runs if r.label in HERO}
    true = sorted(next(iter(chosen.values())).glob("*_true.png"))[0]
    own = f"{true.stem.removesuffix('_true')}.png"
    strips = [("true view", true)] + [(label, chosen[label] / own) for label in HERO]
    title = "out (given) and back (generated): the left half was seen on the way out, the right half is what each policy remembers"
    filmstrips(ROOT / "docs" / "frames.png", [(label, iio.imread(path)) for label, path in strips], title)


def collect(experiment: Path, add: bool = False) -> None:
    """The summaries of an experiment's runs and their paired differences to full KV, as one small file. add: to what that file has.
    Rows are the runs of the lowest seed; runs of other seeds tell how far a policy is from itself.

    Raises ValueError for runs that cannot stand in one table.
    """
    runs = finished_runs(experiment)
    if not runs:
        raise ValueError(f"{experiment} has no finished runs; run harness/run.py name={experiment.name} first")
    runs, others = by_first_seed(runs)
    for seed in by_seed([*runs, *others]):
        _check_one_table(experiment, seed)
    bench = BENCHES.get(experiment.name)
    by_label = {r.label: r for r in runs}
    base = by_label.get(bench.base if bench else BASELINE)
    bases = {r.label: by_label.get(bench.base_of(r.label)) if bench else base for r in runs}
    if lone := next((label for label, other in bases.items() if base and not other), None):
        raise ValueError(f"{experiment} has no run of {bench.base_of(lone) if bench else BASELINE}, with which `{lone}` is compared; run that too")
    first = runs[0].results["run"]
    table = {k: first[k] for k in ("world", "protocol", "seed", "trajectories", "device", "noise", "metrics", "fps_includes", "comparable")}
    table |= {"versions": first["versions"], "weights": first.get("weights", {}).get("weights"), "probes": _probes(first)}
    table["commits"] = sorted({r.results["run"]["git"]["commit"] for r in runs})
    table["columns"] = [asdict(c) for c in columns_of(r.results for r in runs)]
    for run in runs:
        for key, entry in run.results["summary"].items():
            if not np.isfinite([entry["mean"], *(entry["ci95"] or ())]).all():
                raise ValueError(f"{run.path}: {key} is not finite ({entry['mean']}); the docs take no such number: leave that run out")
    table["runs"] = {
        r.label: {
            "summary": {k: v for k, v in r.results["summary"].items() if k.startswith((*BENCH_KEPT, *bench.more) if bench else KEPT)},
            "difference": {k: paired(r.values, other.values, k) for k in [c["key"] for c in table["columns"] if c["difference"]]}
            if (other := bases[r.label]) and r is not other
            else {},
        }
        for r in runs
    }
    if others:
        table[OTHER_SEEDS] = from_themselves(runs, others, [c["key"] for c in table["columns"] if c["difference"]])
    if kept := VALUES.get(experiment.name):
        table["values"] = {r.label: {name: {k: row[k] for k in kept if k in row} for name, row in r.values.items()} for r in runs}
    file = RESULTS / f"{experiment.name}.json"
    if add and file.is_file():
        table = added(table, json.loads(file.read_text()), base.label if base else "", str(experiment))
    RESULTS.mkdir(parents=True, exist_ok=True)
    filmed = {r.label for r in runs if any((r.path / "videos").glob("*_true.png"))}  # not with videos=0
    if not bench and filmed >= set(HERO) and table["protocol"] == "guided":
        hero(runs)
    if experiment.name in PICTURES:
        shutil.copy(experiment / "cost.png", ROOT / "docs" / PICTURES[experiment.name])
    picture, curves = CURVES.get(experiment.name, ("", ()))
    if picture and {r.label for r in runs} >= set(curves):
        probes = {r.label: [record.probes for record in RunFolder(r.path).good(r.results)] for r in runs if r.label in curves}
        recall_plot(ROOT / "docs" / picture, probes, f"{table['trajectories']} houses: an earlier view asked for again, mean and 95 % intervals")
    write_atomic(file, json.dumps(table, indent=None if bench else 1, allow_nan=False) + "\n")


def _check_one_table(experiment: Path, runs: list[FinishedRun]) -> None:
    """Raises ValueError, with the folders, for runs that differ by more than the policy, or that a table by labels would mix up."""
    for what, said in (("comparable", "worlds, seeds or backbones"), ("trajectories", "numbers of trajectories"), ("noise", "trajectories or noise")):
        if len({r.results["run"][what] for r in runs}) > 1:
            raise ValueError(f"{experiment} mixes {said}; collect experiments whose runs differ by the policy alone")
    if failed := next((r for r in runs if r.results["run"]["failed"]), None):
        raise ValueError(f"{failed.path}: {len(failed.results['run']['failed'])} trajectories failed; run it again, or leave that run out")
    if len({(r.results["run"].get("weights", {}).get("weights"), json.dumps(_probes(r.results["run"]))) for r in runs}) > 1:
        raise ValueError(f"{experiment} mixes weights or recall probes; collect experiments whose runs differ by the policy alone")
    by_label: dict[str, Path] = {}
    for run in runs:
        if (other := by_label.setdefault(run.label, run.path)) != run.path:
            raise ValueError(f"{other} and {run.path} are both called `{run.label}`; move one of them to another experiment (name=)")


def _probes(about: dict) -> dict | None:
    """What recall probes a run had; None without any."""
    probes = about["config"].get("probes") or {}
    return probes if probes.get("count") else None


def added(new: dict, known: dict, base: str, folder: str) -> dict:
    """A table with the rows of another part of it. base: the run that both parts have, which says that they were made alike. Raises ValueError where not."""
    if wrong := [k for k in ALIKE if new[k] != known.get(k)]:
        raise ValueError(f"{folder} differs from docs/results in {', '.join(wrong)}; collect it without --add, and make all rows anew")
    if base not in new["runs"] or base not in known["runs"]:
        raise ValueError(f"{folder} and docs/results have no run of {base or BASELINE} in common; run that policy too")
    key = "quality/psnr_revisit"
    mine, others = (t["runs"][base]["summary"].get(key, {}).get("mean") for t in (new, known))
    if mine is None or others is None or abs(mine - others) > SAME_DB:
        raise ValueError(f"{base} has {mine} dB in {folder} and {others} dB in docs/results; the model or the policy is another: collect it without --add")
    devices = list(dict.fromkeys([*known["device"].split("; "), *new["device"].split("; ")]))
    columns = {c["key"]: c for c in [*known["columns"], *new["columns"]]}
    commits = sorted({*known["commits"], *new["commits"]})
    values = {"values": known["values"] | new["values"]} if "values" in new and "values" in known else {}
    stay = {label: entry for label, entry in known.get(OTHER_SEEDS, {}).items() if label not in new["runs"]}  # of rows that are not made anew
    seeds = {OTHER_SEEDS: found} if (found := stay | new.get(OTHER_SEEDS, {})) else {}
    whole = {"device": "; ".join(devices), "columns": list(columns.values()), "commits": commits, "runs": known["runs"] | new["runs"]}
    return {k: v for k, v in new.items() if k != OTHER_SEEDS} | values | seeds | whole
