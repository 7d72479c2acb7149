"""Keep the README's tables true: python harness/docs.py [EXPERIMENT_FOLDER ...]

With folders (outputs/NAME), their comparisons are first collected into docs/results/NAME.json; then every block between
`<!-- NAME -->` and `<!-- end -->` in the README is written anew from policies and docs/results. A test compares.
"""

import sys

if __name__ == "__main__" and not __package__:
    # run as a script, harness/ itself comes first on the path, and harness/types.py would shadow the standard library's
    sys.path[0] = sys.path[0].removesuffix("harness")

import importlib  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
from pathlib import Path  # noqa: E402

import yaml  # noqa: E402

from harness.results import paired, write_atomic  # noqa: E402
from harness.table import BASELINE, finished_runs  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.S)
KEPT = ("quality/", "cost/")


def policy_table() -> str:
    """One row a policy: its YAML's comment, or else the first sentence of its class."""
    rows = ["| policy | what it does |", "| --- | --- |"]
    for file in sorted((ROOT / "conf" / "policy").glob("*.yaml")):
        text = file.read_text()
        if text.startswith("# "):
            what = text.splitlines()[0].removeprefix("# ")
        else:
            module, _, name = yaml.safe_load(text)["_target_"].rpartition(".")
            what = " ".join((inspect.getdoc(getattr(importlib.import_module(module), name)) or "").split())
        rows.append(f"| `{file.stem}` | {what} |")
    return "\n".join(rows)


def collect(experiment: Path) -> None:
    """The summaries of an experiment's runs and their paired differences to full KV, as one small file."""
    runs = finished_runs(experiment)
    if not runs:
        raise SystemExit(f"{experiment} has no finished runs")
    base = next((r for r in runs if r.label == BASELINE), None)
    first = runs[0].results["run"]
    table = {k: first[k] for k in ("world", "protocol", "seed", "trajectories", "device", "noise", "metrics", "fps_includes")}
    table["commits"] = sorted({r.results["run"]["git"]["commit"] for r in runs})
    table["runs"] = {
        r.label: {
            "summary": {k: v for k, v in r.results["summary"].items() if k.startswith(KEPT)},
            "difference": {k: paired(r.values, base.values, k) for k in ("quality/psnr_revisit", "quality/lpips_revisit")} if base else {},
        }
        for r in runs
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomic(RESULTS / f"{experiment.name}.json", json.dumps(table, indent=1) + "\n")


def results_table(name: str) -> str:
    """The comparison of docs/results/NAME.json: means with paired differences to full KV, 95 % intervals."""
    table = json.loads((RESULTS / f"{name}.json").read_text())
    rows = [
        "| policy | PSNR revisit | difference to full | LPIPS revisit | PSNR true view | contrast | FPS | FPS last | tokens | window + bank MB | lost frames |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for label, run in sorted(table["runs"].items(), key=lambda item: -item[1]["summary"]["quality/psnr_revisit"]["mean"]):
        mean = {k: v["mean"] for k, v in run["summary"].items()}
        low, high = run["summary"]["quality/psnr_revisit"]["ci95"]
        difference = run["difference"].get("quality/psnr_revisit")
        bank = mean["cost/bank_bytes_gpu"] + mean["cost/bank_bytes_cpu"]
        cells = [
            f"`{label}`",
            f"{mean['quality/psnr_revisit']:.2f} [{low:.2f}, {high:.2f}]",
            "{:+.2f} [{:+.2f}, {:+.2f}]".format(difference["mean"], *difference["ci95"]) if difference and label != BASELINE else "",
            f"{mean['quality/lpips_revisit']:.3f}",
            f"{mean['quality/psnr_reference']:.2f}",
            f"{mean['quality/contrast']:.2f}",
            f"{mean['cost/fps_mean']:.1f}",
            f"{mean['cost/fps_last']:.1f}",
            f"{mean['cost/attended_tokens']:.0f}",
            f"{mean['cost/window_bytes'] / 1e6:.1f} + {bank / 1e6:.1f}",
            f"{mean['cost/unreachable_frames']:.1f}",
        ]
        rows.append("| " + " | ".join(cells) + " |")
    one = next(iter(table["runs"].values()))["summary"]
    ends = ", ".join(
        f"{which} {one[f'quality/psnr_{which}']['mean']:.1f} dB / LPIPS {one[f'quality/lpips_{which}']['mean']:.3f}" for which in ("floor", "ceiling")
    )
    rows.append("")
    rows.append(f"{table['trajectories']} held-out trajectories, `{table['protocol']}`, seed {table['seed']}, same noise; {ends}; {table['device']}.")
    return "\n".join(rows)


def render(readme: str) -> str:
    """The README with every block written anew."""

    def block(match: re.Match) -> str:
        name = match.group(1)
        body = policy_table() if name == "policies" else results_table(name)
        return f"<!-- {name} -->\n{body}\n<!-- end -->"

    return BLOCK.sub(block, readme)


def main() -> None:
    for experiment in sys.argv[1:]:
        collect(Path(experiment))
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))


if __name__ == "__main__":
    main()
