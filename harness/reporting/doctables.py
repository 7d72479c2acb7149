"""The results tables of README and docs, from the small files in docs/results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from harness.reporting.columns import columns_of, ends_of, leading
from harness.reporting.noise import band, noise_note
from harness.reporting.table import BASELINE
from harness.results.older import completed_summary
from harness.results.statistics import LEVEL, adjusted, detectable
from metrics.column import Column

Cell = Callable[[dict], str]  # a run's entry in docs/results -> what stands in the table
Link = Callable[[str], str]  # a run's label -> the label as the page shows it, with a link to its method where it has one
KEPT = ("quality/", "cost/", "recall/")
BENCH_KEPT = (  # benches have many runs
    *("quality/psnr_revisit", "quality/psnr_reference", "quality/psnr_floor", "quality/psnr_ceiling", "quality/lpips_revisit", "quality/lpips_floor"),
    *("quality/contrast", "recall/psnr", "recall/lpips", "recall/probes"),
    *("cost/attended_tokens", "cost/window", "cost/bank", "cost/stored", "cost/fps_mean", "cost/unreach"),
)
SPEED = ("long",)  # tables that show speed, which only a run with the machine to itself may
TRAINED = ("control", "retrieved", "compressed", "recurrent", "geometry")  # arms, in the order of the docs
MAIN = "houses_guided"  # the table of all policies
SHORT = "short"  # the README's
VIEWS = {  # blocks that show these rows of MAIN
    SHORT: ("full", "reencode", "int4_chunks", "worldkv", "sink_recent", "sliding"),
    "selectors": (
        *("full", "reencode", "places", "retrieval_only", "int4_chunks", "worldkv", "oracle_quality", "oracle", "coverage", "fov", "query", "attention"),
        *("latent", "random", "recency", "sink_recent", "sliding"),
    ),
}
SHORT_COLUMNS = ("PSNR revisit", "LPIPS revisit", "PSNR true view", "contrast", "PSNR recall")
ENDS = {"floor": "floor: an unrelated view", "ceiling": "bound of the true view: what the autoencoder keeps"}
PICTURES = {"long": "cost.png", "novelty": "novelty.png"}  # experiment: what its cost.png is called in docs/
CURVES = {  # pictures of recall against the gap: the experiment, its picture in docs/, and whose curves
    MAIN: ("recall.png", ("full", "reencode", "worldkv", "oracle", "random", "sliding")),
    "trained": ("recall_trained.png", ("retrieval_rebased", "worldkv", *(f"trained_{arm}" for arm in TRAINED))),
}


@dataclass(frozen=True)
class Bench:
    """A table of policies against one of them. key: what points differ in besides the policy; a row shows its first value, and
    the PSNR at the `others`. more: columns that its rows have besides."""

    base: str
    key: str = ""
    first: str = ""
    others: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def leads(self, label: str) -> bool:
        return not self.key or f" {self.key}=" not in label or f" {self.key}={self.first}" in label

    def name(self, label: str) -> str:
        return label.replace(f" {self.key}={self.first}", "").replace("capped inner=", "")

    def other(self, label: str, value: str) -> str:
        here = f" {self.key}={self.first}"
        return label.replace(here, f" {self.key}={value}") if here in label else f"{label} {self.key}={value}"


BENCHES = {
    "houses_guided": Bench("worldkv", "budget", "w18", ("w12", "w24")),
    "houses_bytes": Bench("capped inner=worldkv frames=30", "frames", "30", ("45", "60")),
    "codecs": Bench("worldkv codec=none"),
    **dict.fromkeys(("houses_changing", "houses_twins", "houses_200", "houses_validation"), Bench("worldkv")),
    "trained": Bench("worldkv", "arm", "none", more=("cost/stored_bytes",)),
    "trained_bytes": Bench("capped inner=worldkv frames=45", "frames", "45", more=("cost/stored_bytes",)),
    "trained_free": Bench("worldkv", more=("novel/psnr", "novel/lpips", "novel/frames")),
    "trained_rooms": Bench("worldkv", more=("cost/stored_bytes",)),
}


def source(name: str) -> str:
    """The file in docs/results that a block is made from."""
    return MAIN if name in VIEWS else name


def results_table(name: str, table: dict, link: Link, concepts: str = "../concepts.md") -> str:
    """The comparison of docs/results/NAME.json, or a view of MAIN, best first. Below the runs stand what bounds
    a column: the floor under the revisit scores, the autoencoder's bound under the true view alone, since a revisit is compared with a view that
    the same rollout generated."""
    bench = BENCHES.get(source(name))
    runs, known = _read(table, bench.base if bench else BASELINE)
    columns = _bench_columns(bench, runs, known) if bench else _cost_columns(known) if name in SPEED else _quality_columns(known, BASELINE, runs)
    shown = {bench.name(label): run for label, run in runs.items() if bench.leads(label)} if bench else runs
    others = [run for run in shown.values() if (run["difference"].get(_main(known).key) or {}).get("p") is not None]
    if name in VIEWS:
        if missing := set(VIEWS[name]) - shown.keys():
            raise ValueError(f"docs/results/{MAIN}.json has no run of {', '.join(sorted(missing))}, which the table `{name}` shows")
        columns, shown = _short(columns) if name == SHORT else columns, {label: shown[label] for label in VIEWS[name]}
    ends = ends_of(known, next(iter(runs.values()))["summary"])
    by_heading = {c.heading: c for c in known}
    limits = {ENDS[end]: [_limit(by_heading.get(heading), values) for heading in columns] for end, values in ends.items()}
    rows = [f"| *{limit}* | " + " | ".join(cells) + " |" for limit, cells in limits.items() if any(cells)]
    about = f"{table['trajectories']} held-out trajectories of `{table['world']}`, `{table['protocol']}`, seed {table['seed']}, same noise"
    compared = "policy is" if len(others) == 1 else "policies of the bench are" if name in VIEWS else "policies are"
    count = f"{len(others)} {compared} compared"
    significance = "" if name == SHORT else f" ([significance]({concepts}#significance))"
    power = "" if name == SHORT else _power(others, known)
    starred = f" {count}; * adjusted p < {LEVEL}{significance}.{power}" if others and name not in SPEED else ""
    noise = noise_note(table, [c for c in known if c.heading in columns and c.difference]) if name != SHORT else ""
    return "\n".join([*_rows(columns, _sorted(shown, known), link), *rows, "", f"{about}; {table['device']}.{starred}{noise}"])


def _power(others: Sequence[dict], known: Sequence[Column]) -> str:
    """Which differences so many trajectories find, of the compared columns in dB, of the median run."""
    said = []
    for c in (c for c in known if c.unit == "dB" and c.difference and c.group == "quality" and not c.key.endswith("_true")):
        entries = [e for run in others if (e := run["difference"].get(c.key)) and e.get("sd")]
        least = sorted(detectable(e["sd"], e["n"], len(others)) for e in entries)[len(entries) // 2 :][:1]
        said += [f"{c.show(d)} dB in {c.heading}" for d in least if isfinite(d)]
    return f" So many trajectories find a difference of {' and '.join(said)} in 8 of 10 cases (median policy)." if said else ""


def bench_rows(name: str, table: dict, link: Link) -> str:
    """A policy's row in the bench above that of the base; empty where the bench has no run of it."""
    bench = BENCHES[MAIN]
    runs, known = _read(table, bench.base)
    found = {bench.name(label): run for label, run in runs.items() if bench.leads(label)}
    if name not in found:
        return ""
    return "\n".join(_rows(_bench_columns(bench, runs, known), {label: found[label] for label in dict.fromkeys([name, bench.base])}, link))


def _read(table: dict, base: str) -> tuple[dict[str, dict], list[Column]]:
    """A table's runs and columns. Older tables hold the baseline's difference to itself, which is no comparison."""
    runs = {label: run | {"label": label, "summary": completed_summary(run["summary"])} for label, run in table["runs"].items()}
    runs |= {base: runs[base] | {"difference": {}}} if base in runs else {}
    known = columns_of(run | {"columns": table.get("columns")} for run in runs.values())
    bands = {c.key: band(table, c.key) for c in known}
    return {label: run | {"bands": bands} for label, run in runs.items()}, known


def _sorted(runs: dict[str, dict], known: Sequence[Column]) -> dict[str, dict]:
    main = _main(known)
    return dict(sorted(runs.items(), key=lambda item: -main.better * item[1]["summary"][main.key]["mean"]))


def _main(known: Sequence[Column]) -> Column:
    main = leading(known)
    assert main is not None, "docs/results holds runs with qualities"
    return main


def _rows(columns: dict[str, Cell], runs: dict[str, dict], link: Link) -> list[str]:
    head = ["| policy | " + " | ".join(columns) + " |", "| --- " * (len(columns) + 1) + "|"]
    return head + [f"| {link(label)} | " + " | ".join(cell(run) for cell in columns.values()) + " |" for label, run in runs.items()]


def _limit(column: Column | None, values: dict[str, float]) -> str:
    return column.show(values[column.key]) if column and column.key in values else ""


def _short(columns: dict[str, Cell]) -> dict[str, Cell]:
    """The README's."""

    def stored(run: dict) -> str:
        return f"{sum(run['summary'][f'cost/{part}_bytes']['mean'] for part in ('window', 'bank')) / 1e6:.1f}"

    shown = {name: cell for name, cell in columns.items() if name in SHORT_COLUMNS or name.startswith("PSNR vs ")}
    return shown | {"window + bank (MB)": stored}


def _quality_columns(known: Sequence[Column], base: str, runs: dict[str, dict]) -> dict[str, Cell]:
    """Every quality that has room for it (an added metric too), differences to the base, and what the memory costs. Of recall probes those that are compared,
    against the first visit, and of the main metric the mean against the true view."""
    columns: dict[str, Cell] = {}
    for c in (c for c in known if c.group == "quality" and c.rank < 5 and c.key != "pairs"):
        probed = c.key.startswith("recall/")
        if probed and c.key.endswith("_true"):
            if (main := leading(known)) and c.key.split("/")[1].removesuffix("_true") == main.key.split("/")[1].removesuffix("_revisit"):
                columns[c.heading] = _mean(c)
            continue
        if probed and not c.difference:
            continue
        columns[c.heading] = _interval(c) if c is leading(known) or (probed and c.decimals < 3) else _mean(c)
        if c.difference:
            columns[f"{c.heading.removesuffix(' revisit')} vs {base}"] = _difference(c, runs)
    return columns | _columns(known, "cost/attended_tokens", "cost/window_bytes", "cost/bank_bytes", "cost/unreachable_frames")


def _cost_columns(known: Sequence[Column]) -> dict[str, Cell]:
    main = leading(known)
    return (
        _columns(known, "cost/fps_mean", "cost/fps_last", "cost/latency_p95_ms")
        | {"tokens of the last chunk": lambda run: f"{run['summary']['cost/attended_tokens_last']['mean']:.0f}"}
        | _columns(known, "cost/window_bytes", "cost/bank_bytes", "cost/bytes_moved")
        | {"assembly + commit": lambda run: f"{100 * (run['summary']['cost/share_assemble']['mean'] + run['summary']['cost/share_commit']['mean']):.1f} %"}
        | ({main.heading: _mean(main)} if main else {})
        | _columns(known, "quality/psnr_reference", "quality/contrast")  # a blurred view is easy to repeat: revisits alone flatter long rollouts
    )


def _bench_columns(bench: Bench, runs: dict[str, dict], known: Sequence[Column]) -> dict[str, Cell]:
    """Without speed: jobs of a bench share a machine."""
    main = leading(known)
    assert main is not None

    def at(value: str) -> Cell:
        def cell(run: dict) -> str:
            other = runs.get(bench.other(run["label"], value))
            return main.show(other["summary"][main.key]["mean"]) if other else ""

        return cell

    leads = {label: run for label, run in runs.items() if bench.leads(label)}
    columns = _quality_columns(known, bench.name(bench.base), leads) | _columns(known, *bench.more)
    return columns | {f"{main.heading}, {bench.key}={value}": at(value) for value in bench.others if any(bench.other(label, value) in runs for label in runs)}


def _columns(known: Sequence[Column], *keys: str) -> dict[str, Cell]:
    by_key = {c.key: c for c in known}
    return {by_key[key].title: _mean(by_key[key]) for key in keys if key in by_key}


def _mean(c: Column) -> Cell:
    return lambda run: c.show(run["summary"][c.key]["mean"]) if c.key in run["summary"] else "-"


def _interval(c: Column) -> Cell:
    return lambda run: f"{_mean(c)(run)}{_between(c, run['summary'].get(c.key, {}))}"


def _between(c: Column, entry: dict, sign: bool = False) -> str:
    return f" [{', '.join(c.show(v, sign=sign) for v in entry['ci95'])}]" if entry.get("ci95") else ""


def _noisy(difference: float, band: float | None) -> str:
    return "~" if band is not None and abs(difference) <= band else ""


def _difference(c: Column, runs: dict[str, dict]) -> Cell:
    """With a star where it is significant among all of these runs (of tables that were made before: without)."""
    known = {label: p for label, run in runs.items() if (p := (run["difference"].get(c.key) or {}).get("p")) is not None}
    stars = {label for label, q in zip(known, adjusted(list(known.values())), strict=True) if q is not None and q < LEVEL}

    def cell(run: dict) -> str:
        entry = run["difference"].get(c.key)
        if not entry or entry["mean"] == 0 == (entry["ci95"] or [0])[0]:
            return ""
        marks = ("*" if run["label"] in stars else "") + _noisy(entry["mean"], run["bands"].get(c.key))
        return f"{c.show(entry['mean'], sign=True)}{marks}{_between(c, entry, sign=True)}"

    return cell
