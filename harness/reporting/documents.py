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
import sys
from pathlib import Path

from harness.reporting.audited import NAMES as AUDITS
from harness.reporting.audited import audit_table
from harness.reporting.benches import BUDGETS, MAIN, source
from harness.reporting.budgets import budgets_table
from harness.reporting.cells import Link
from harness.reporting.collected import RESULTS, collect
from harness.reporting.crossed import KEYS, crossed_table
from harness.reporting.crossed import NAME as CROSSED
from harness.reporting.doctables import ELSEWHERE, bench_section, results_table
from harness.reporting.endurance import endurance
from harness.reporting.gains import BYTES, gains_table
from harness.reporting.gains import NAME as GAINS
from harness.reporting.methods import FOLDER, PLAIN, method_index, method_page, methods
from harness.reporting.said import said_of
from harness.reporting.table import finished_runs
from harness.reporting.trainings import NAME as TRAININGS
from harness.reporting.trainings import is_training, trained, trainings_table
from harness.results.run_folder import RunFolder
from harness.settings.command_line import ROOT
from harness.settings.entry_point import entry_point, usage
from harness.system.files import write_atomic

BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.S)
CONCEPTS = ROOT / "docs" / "concepts.md"
EVERYWHERE = ("worldkv", "full")  # what the others are compared with: most bullets of the results name them
ENDURANCE = "endurance"  # one long rollout a policy: a picture and no table


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
    found, tables = methods(), {name: _results(name) for name in (MAIN, *ELSEWHERE)}
    at = {m.name: FOLDER / f"{m.name}.md" for m in found}
    said = {name: [] if name in EVERYWHERE else said_of(name, [RESULTS / "bench.md", RESULTS / "index.md"], FOLDER) for name in at}
    return {at[m.name]: method_page(m, found, [bench_section(m.name, tables, _links(at[m.name])), *said[m.name]]) for m in found}


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
