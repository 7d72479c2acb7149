"""Keep the tables of README and docs true: python harness/docs.py [--add] [EXPERIMENT_FOLDER ...]

With folders (outputs/NAME), their comparisons are first collected into docs/results/NAME.json (outputs/endurance becomes
docs/endurance.png; trainings of arms become rows of docs/results/trainings.json). --add: rows of policies that a folder has no
run of stay as they are, if they were made alike: a long table can be made in parts, each with a run of the policy that the others
are compared with.

Then every block between `<!-- NAME -->` and `<!-- end -->` in README.md and docs/ is written anew from docs/results, and
docs/methods from the policies. A test compares.
"""

import json
import os
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import imageio.v3 as iio
import numpy as np

from harness.reporting.audited import KEYS as AUDITED
from harness.reporting.audited import NAMES as AUDITS
from harness.reporting.audited import audit_table
from harness.reporting.benches import BENCH_KEPT, BENCHES, BUDGETS, CURVES, KEPT, MAIN, PICTURES, source
from harness.reporting.budgets import budgets_table
from harness.reporting.cells import Link
from harness.reporting.columns import columns_of
from harness.reporting.crossed import KEYS, crossed_table
from harness.reporting.crossed import NAME as CROSSED
from harness.reporting.doctables import bench_rows, results_table
from harness.reporting.endurance import endurance
from harness.reporting.gains import BYTES, gains_table
from harness.reporting.gains import NAME as GAINS
from harness.reporting.media import filmstrips
from harness.reporting.methods import FOLDER, PLAIN, method_index, method_page, methods
from harness.reporting.noise import KEY as OTHER_SEEDS
from harness.reporting.noise import by_first_seed, by_seed, from_themselves
from harness.reporting.recall_plot import recall_plot
from harness.reporting.table import BASELINE, Run, finished_runs
from harness.reporting.trainings import NAME as TRAININGS
from harness.reporting.trainings import is_training, trained, trainings_table
from harness.results.run_folder import RunFolder
from harness.results.statistics import paired
from harness.settings.command_line import ROOT
from harness.settings.entry_point import entry_point, usage
from harness.system.files import write_atomic

RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.S)
CONCEPTS = ROOT / "docs" / "concepts.md"
HERO = ("full", "worldkv", "sliding")
ALIKE = ("world", "protocol", "seed", "trajectories", "noise", "comparable", "metrics", "weights", "probes")  # of the parts of a table
# columns of which every trajectory's value is kept, by table
VALUES = {CROSSED: tuple(KEYS.values()), BYTES: tuple(KEYS.values())} | dict.fromkeys(AUDITS, AUDITED)
SAME_DB = 0.05  # between two machines' runs of the policy that the others are compared with; float sums differ
ENDURANCE = "endurance"  # one long rollout a policy: a picture and no table


def hero(runs: list[Run]) -> None:
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


def _check_one_table(experiment: Path, runs: list[Run]) -> None:
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


def pages() -> list[Path]:
    """The files that a person writes and that may hold generated blocks."""
    return [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent != FOLDER or p.stem == "index")]


def render(page: Path, text: str) -> str:
    """A page's text with every block written anew."""

    def block(match: re.Match) -> str:
        name = match.group(1)
        if name == "methods":
            body = method_index(methods())
        elif name in KEYS:
            body = crossed_table(KEYS[name], _results(CROSSED))
        elif name == TRAININGS:
            body = trainings_table(_results(name))
        elif name == GAINS:
            body = gains_table(_results(CROSSED), _results(BYTES))
        elif name in BUDGETS:
            body = budgets_table(name, _results(source(name)), _links(page))
        elif name in AUDITS:
            body = audit_table(_results(name), _links(page), os.path.relpath(CONCEPTS, page.parent))
        else:
            body = results_table(name, _results(source(name)), _links(page), os.path.relpath(CONCEPTS, page.parent))
        return f"<!-- {name} -->\n{body}\n<!-- end -->"

    return BLOCK.sub(block, text)


def method_pages() -> dict[Path, str]:
    """The pages of docs/methods that are wholly generated."""
    found, bench = methods(), _results(MAIN)
    return {FOLDER / f"{m.name}.md": method_page(m, found, bench_rows(m.name, bench, _links(FOLDER / f"{m.name}.md"))) for m in found}


def _results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def _links(page: Path) -> Link:
    """Labels as links from a page to the methods' pages; a label with settings has no page of its own."""
    known = {file.stem for file in (ROOT / "conf" / "policy").glob("*.yaml")}
    to = os.path.relpath(FOLDER, page.parent)

    def link(label: str) -> str:
        if not PLAIN.fullmatch(label) or label not in known or page == FOLDER / f"{label}.md":
            return f"`{label}`"
        return f"[`{label}`]({os.path.normpath(f'{to}/{label}.md')})"

    return link


@entry_point("run it again: pages that are written are whole")
def main() -> None:
    """Entry point."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    add, folders = "--add" in sys.argv[1:], [a for a in sys.argv[1:] if a != "--add"]
    if flags := [a for a in folders if a.startswith("-")]:
        usage(f"error: there is no option {flags[0]}\n{__doc__}")
    for experiment in map(Path, folders):
        if not experiment.is_dir():
            raise ValueError(f"{experiment} is no folder; give folders of runs, such as outputs/NAME")
    for experiment in map(Path, folders):
        if experiment.name == ENDURANCE:
            rows = {r.label: RunFolder(r.path).records()[0].chunks for r in finished_runs(experiment) if r.values}
            print(endurance(ROOT / "docs" / "endurance.png", rows))
        elif is_training(experiment):
            name, entry = trained(experiment)
            file = RESULTS / f"{TRAININGS}.json"
            known = json.loads(file.read_text()) if file.is_file() else {}
            write_atomic(file, json.dumps(dict(sorted((known | {name: entry}).items())), indent=1, allow_nan=False) + "\n")
        else:
            collect(experiment, add)
    for page in pages():
        write_atomic(page, render(page, page.read_text()))
    written = method_pages()
    for old in set(FOLDER.glob("*.md")) - written.keys() - {FOLDER / "index.md"}:
        old.unlink()  # of a policy that is no more
    for page, text in written.items():
        write_atomic(page, text)


if __name__ == "__main__":
    main()
