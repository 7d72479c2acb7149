"""Keep the README's tables true: python harness/docs.py [EXPERIMENT_FOLDER ...]

With folders (outputs/NAME), their comparisons are first collected into docs/results/NAME.json (outputs/endurance becomes
docs/endurance.png); then every block between
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
import shutil  # noqa: E402
from pathlib import Path  # noqa: E402

import imageio.v3 as iio  # noqa: E402
import yaml  # noqa: E402

from harness.endurance import endurance  # noqa: E402
from harness.files import write_atomic  # noqa: E402
from harness.media import filmstrips  # noqa: E402
from harness.results import RunFolder, paired  # noqa: E402
from harness.table import BASELINE, Run, finished_runs  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.S)
KEPT = ("quality/", "cost/")
HERO = ("full", "worldkv", "sliding")
SPEED = ("long",)
BENCHES = {"policies": ("budget", ("w12", "w24"))}  # experiment: what its points differ in besides the policy, and its other values
BENCH_BASE = "worldkv"  # what the benches' policies have to beat
BENCH_KEPT = (
    "psnr_revisit",
    "psnr_floor",
    "psnr_ceiling",
    "lpips_revisit",
    "lpips_floor",
    "lpips_ceiling",
    "attended_tokens",
    "window_bytes",
    "bank_bytes",
    "fps_mean",
    "unreachable",
)
ENDURANCE = "endurance"  # one long rollout a policy: a picture and no table


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


def hero(runs: list[Run]) -> None:
    """docs/frames.png: the first filmed trajectory under the policies of the README's first picture."""
    chosen = {r.label: r.path / "videos" for r in runs if r.label in HERO}
    true = sorted(next(iter(chosen.values())).glob("*_true.png"))[0]
    own = true.name.replace("_true", "")
    strips = [("true view", true)] + [(label, chosen[label] / own) for label in HERO]
    title = "out (given) and back (generated): the left half was seen on the way out, the right half is what each policy remembers"
    filmstrips(ROOT / "docs" / "frames.png", [(label, iio.imread(path)) for label, path in strips], title)


def collect(experiment: Path) -> None:
    """The summaries of an experiment's runs and their paired differences to full KV, as one small file."""
    runs = finished_runs(experiment)
    if not runs:
        raise SystemExit(f"{experiment} has no finished runs")
    if len({r.results["run"]["comparable"] for r in runs}) > 1:
        raise SystemExit(f"{experiment} mixes worlds, seeds or backbones; collect experiments whose runs differ by the policy alone")
    bench = experiment.name in BENCHES
    base = next((r for r in runs if r.label == (BENCH_BASE if bench else BASELINE)), None)
    first = runs[0].results["run"]
    table = {k: first[k] for k in ("world", "protocol", "seed", "trajectories", "device", "noise", "metrics", "fps_includes")}
    table["commits"] = sorted({r.results["run"]["git"]["commit"] for r in runs})
    table["runs"] = {
        r.label: {
            "summary": {k: v for k, v in r.results["summary"].items() if k.startswith(KEPT) and (not bench or any(name in k for name in BENCH_KEPT))},
            "difference": {k: paired(r.values, base.values, k) for k in ("quality/psnr_revisit", "quality/lpips_revisit")} if base else {},
        }
        for r in runs
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    if not bench and {r.label for r in runs} >= set(HERO) and table["protocol"] == "guided":
        hero(runs)
    if experiment.name in SPEED:
        shutil.copy(experiment / "cost.png", ROOT / "docs" / "cost.png")
    write_atomic(RESULTS / f"{experiment.name}.json", json.dumps(table, indent=1) + "\n")


def results_table(name: str) -> str:
    """The comparison of docs/results/NAME.json. SPEED tables show speed, which only a run with the machine to itself may."""
    table = json.loads((RESULTS / f"{name}.json").read_text())
    columns = COST_COLUMNS if name in SPEED else _bench_columns(name, table["runs"]) if name in BENCHES else QUALITY_COLUMNS
    rows = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    shown = {label: run | {"label": label} for label, run in table["runs"].items() if name not in BENCHES or f" {BENCHES[name][0]}=" not in label}
    for label, run in sorted(shown.items(), key=lambda item: -item[1]["summary"]["quality/psnr_revisit"]["mean"]):
        rows.append(f"| `{label}` | " + " | ".join(cell(run) for cell in columns.values()) + " |")
    one = next(iter(table["runs"].values()))["summary"]
    ends = ", ".join(f"{w} {one[f'quality/psnr_{w}']['mean']:.1f} dB / LPIPS {one[f'quality/lpips_{w}']['mean']:.3f}" for w in ("floor", "ceiling"))
    about = f"{table['trajectories']} held-out trajectories, `{table['protocol']}`, seed {table['seed']}, same noise"
    return "\n".join([*rows, "", f"{about}; {ends}; {table['device']}."])


def _mean(key: str, form: str, factor: float = 1.0):
    return lambda run: form.format(run["summary"][key]["mean"] * factor)


def _interval(key: str, form: str):
    return lambda run: f"{form.format(run['summary'][key]['mean'])} [" + ", ".join(form.format(v) for v in run["summary"][key]["ci95"]) + "]"


def _difference(key: str, form: str):
    def cell(run: dict) -> str:
        entry = run["difference"].get(key)
        if not entry or entry["mean"] == 0 == entry["ci95"][0]:
            return ""
        return f"{form.format(entry['mean'])} [" + ", ".join(form.format(v) for v in entry["ci95"]) + "]"

    return cell


def _bank(run: dict) -> str:
    return f"{sum(entry['mean'] for key, entry in run['summary'].items() if key.startswith('cost/bank_bytes_')) / 1e6:.1f}"


QUALITY_COLUMNS = {
    "PSNR revisit": _interval("quality/psnr_revisit", "{:.2f}"),
    "to full": _difference("quality/psnr_revisit", "{:+.2f}"),
    "LPIPS revisit": _mean("quality/lpips_revisit", "{:.3f}"),
    "to full ": _difference("quality/lpips_revisit", "{:+.3f}"),
    "PSNR true view": _mean("quality/psnr_reference", "{:.2f}"),
    "contrast": _mean("quality/contrast", "{:.2f}"),
    "tokens": _mean("cost/attended_tokens", "{:.0f}"),
    "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
    "bank MB": _bank,
    "lost": _mean("cost/unreachable_frames", "{:.1f}"),
}
COST_COLUMNS = {
    "FPS": _mean("cost/fps_mean", "{:.1f}"),
    "FPS last": _mean("cost/fps_last", "{:.1f}"),
    "p95 ms": _mean("cost/latency_p95_ms", "{:.0f}"),
    "tokens last": _mean("cost/attended_tokens_last", "{:.0f}"),
    "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
    "bank MB": _bank,
    "moved MB a chunk": _mean("cost/bytes_moved", "{:.2f}", 1e-6),
    "assembly + commit": lambda run: f"{100 * (run['summary']['cost/share_assemble']['mean'] + run['summary']['cost/share_commit']['mean']):.1f} %",
    "PSNR revisit": _mean("quality/psnr_revisit", "{:.2f}"),
}


def _bench_columns(name: str, runs: dict[str, dict]) -> dict:
    """A policy's row at the first value of the bench, and its PSNR at the others."""
    key, others = BENCHES[name]

    def at(value: str):
        def cell(run: dict) -> str:
            other = runs.get(f"{run['label']} {key}={value}")
            return f"{other['summary']['quality/psnr_revisit']['mean']:.2f}" if other else ""

        return cell

    def speed(run: dict) -> str:
        return f"{run['summary']['cost/fps_mean']['mean'] / runs[BASELINE]['summary']['cost/fps_mean']['mean']:.1f}x"

    columns = {
        "PSNR revisit": _interval("quality/psnr_revisit", "{:.2f}"),
        f"to {BENCH_BASE}": _difference("quality/psnr_revisit", "{:+.2f}"),
        "LPIPS revisit": _mean("quality/lpips_revisit", "{:.3f}"),
        f"to {BENCH_BASE} ": _difference("quality/lpips_revisit", "{:+.3f}"),
        "tokens": _mean("cost/attended_tokens", "{:.0f}"),
        "window MB": _mean("cost/window_bytes", "{:.1f}", 1e-6),
        "bank MB": _bank,
        "lost": _mean("cost/unreachable_frames", "{:.1f}"),
        f"FPS to {BASELINE}": speed,
    }
    return columns | {f"PSNR, {key}={value}": at(value) for value in others}


def render(readme: str) -> str:
    """The README with every block written anew."""

    def block(match: re.Match) -> str:
        name = match.group(1)
        body = policy_table() if name == "policies" else results_table(name)
        return f"<!-- {name} -->\n{body}\n<!-- end -->"

    return BLOCK.sub(block, readme)


def main() -> None:
    for experiment in map(Path, sys.argv[1:]):
        if experiment.name == ENDURANCE:
            rows = {r.label: RunFolder(r.path).records()[0].chunks for r in finished_runs(experiment) if r.values}
            print(endurance(ROOT / "docs" / "endurance.png", rows))
        else:
            collect(experiment)
    readme = ROOT / "README.md"
    readme.write_text(render(readme.read_text()))


if __name__ == "__main__":
    main()
