"""The results tables of README and docs, from the small files in docs/results."""

from collections.abc import Sequence
from math import isfinite

from harness.reporting.benches import BENCHES, MAIN, SHORT, VIEWS, Bench, source
from harness.reporting.cells import Cell, Link, best_first, cells_of, difference_cell, interval_cell, main_column, mean_cell, read_table, rows_of
from harness.reporting.columns import ends_of, leading
from harness.reporting.noise import noise_note
from harness.reporting.table import BASELINE
from harness.results.statistics import LEVEL, detectable
from metrics.column import Column

ELSEWHERE = {  # benches beside MAIN: their title and where they stand, from docs/methods
    "houses_bytes": ("equal stored bytes", "../results/bench.md#equal-stored-bytes"),
    "trained": ("trained memories", "../trained.md"),
}
SPEED = ("long",)  # tables that show speed, which only a run with the machine to itself may
SHORT_COLUMNS = ("PSNR revisit", "LPIPS revisit", "PSNR true view", "contrast", "PSNR recall", "stored (MB)")
ENDS = {"floor": "floor: an unrelated view", "ceiling": "bound of the true view: what the autoencoder keeps"}


def results_table(name: str, table: dict, link: Link, concepts: str = "../concepts.md") -> str:
    """The comparison of docs/results/NAME.json, or a view of MAIN, best first. Below the runs stand what bounds
    a column: the floor under the revisit scores, the autoencoder's bound under the true view alone, since a revisit is compared with a view that
    the same rollout generated."""
    bench = BENCHES.get(source(name))
    runs, known = read_table(table, bench.base if bench else BASELINE)
    columns = _bench_columns(bench, runs, known) if bench else _cost_columns(known) if name in SPEED else _quality_columns(known, BASELINE, runs)
    shown = {bench.name(label): run for label, run in runs.items() if bench.leads(label)} if bench else runs
    others = [run for run in shown.values() if (run["difference"].get(main_column(known).key) or {}).get("p") is not None]
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
    return "\n".join([*rows_of(columns, best_first(shown, known), link), *rows, "", f"{about}; {table['device']}.{starred}{noise}"])


def _power(others: Sequence[dict], known: Sequence[Column]) -> str:
    """Which differences so many trajectories find, of the compared columns in dB, of the median run."""
    said = []
    for c in (c for c in known if c.unit == "dB" and c.difference and c.group == "quality" and not c.key.endswith("_true")):
        entries = [e for run in others if (e := run["difference"].get(c.key)) and e.get("sd")]
        least = sorted(detectable(e["sd"], e["n"], len(others)) for e in entries)[len(entries) // 2 :][:1]
        said += [f"{c.show(d)} dB in {c.heading}" for d in least if isfinite(d)]
    return f" So many trajectories find a difference of {' and '.join(said)} in 8 of 10 cases (median policy)." if said else ""


def bench_section(name: str, tables: dict[str, dict], link: Link) -> str:
    """What the bench says of a policy: its row above that of the base, or where else it has one. tables: those of ELSEWHERE and MAIN, by name."""
    bench = BENCHES[MAIN]
    runs, known = read_table(tables[MAIN], bench.base)
    found = {bench.name(label): run for label, run in runs.items() if bench.leads(label)}
    others = [
        f"[{title}]({page})"
        for other, (title, page) in ELSEWHERE.items()
        if any(name in (label.split(" ")[0], BENCHES[other].name(label).split(" ")[0]) for label in tables[other]["runs"])
    ]
    also = f" It has rows in {' and '.join(others)}." if others else ""
    if name not in found:
        return f"It has no row in [Methods at equal attended tokens](../results/bench.md).{also}"
    rows = "\n".join(rows_of(_bench_columns(bench, runs, known), {label: found[label] for label in dict.fromkeys([name, bench.base])}, link))
    tokens, usual = (found[label]["summary"]["cost/attended_tokens"]["mean"] for label in (name, bench.base))
    uneven = f" It attends to {tokens:,.0f} tokens, `{bench.base}` to {usual:,.0f}." if abs(tokens / usual - 1) > 0.01 else ""
    return f"{rows}\n\nThe whole table: [Methods at equal attended tokens](../results/bench.md).{uneven}{also}"


def _limit(column: Column | None, values: dict[str, float]) -> str:
    return column.show(values[column.key]) if column and column.key in values else ""


def _short(columns: dict[str, Cell]) -> dict[str, Cell]:
    """The README's."""
    return {name: cell for name, cell in columns.items() if name in SHORT_COLUMNS or name.startswith("PSNR vs ")}


def _quality_columns(known: Sequence[Column], base: str, runs: dict[str, dict]) -> dict[str, Cell]:
    """Every quality that has room for it (an added metric too), differences to the base, and what the memory costs. Of recall probes those that are compared,
    against the first visit, and of the main metric the mean against the true view."""
    columns: dict[str, Cell] = {}
    for c in (c for c in known if c.group == "quality" and c.rank < 5 and c.key != "pairs"):
        probed = c.key.startswith("recall/")
        if probed and c.key.endswith("_true"):
            if (main := leading(known)) and c.key.split("/")[1].removesuffix("_true") == main.key.split("/")[1].removesuffix("_revisit"):
                columns[c.heading] = mean_cell(c)
            continue
        if probed and not c.difference:
            continue
        columns[c.heading] = interval_cell(c) if c is leading(known) or (probed and c.decimals < 3) else mean_cell(c)
        if c.difference:
            columns[f"{c.heading.removesuffix(' revisit')} vs {base}"] = difference_cell(c, runs)
    return columns | cells_of(known, "cost/attended_tokens", "cost/window_bytes", "cost/bank_bytes", "cost/stored_bytes", "cost/unreachable_frames")


def _cost_columns(known: Sequence[Column]) -> dict[str, Cell]:
    main = leading(known)
    return (
        cells_of(known, "cost/fps_mean", "cost/fps_last", "cost/latency_p95_ms")
        | {"tokens of the last chunk": lambda run: f"{run['summary']['cost/attended_tokens_last']['mean']:.0f}"}
        | cells_of(known, "cost/window_bytes", "cost/bank_bytes", "cost/bytes_moved")
        | {"assembly + commit": lambda run: f"{100 * (run['summary']['cost/share_assemble']['mean'] + run['summary']['cost/share_commit']['mean']):.1f} %"}
        | ({main.heading: mean_cell(main)} if main else {})
        | cells_of(known, "quality/psnr_reference", "quality/contrast")  # a blurred view is easy to repeat: revisits alone flatter long rollouts
    )


def _bench_columns(bench: Bench, runs: dict[str, dict], known: Sequence[Column]) -> dict[str, Cell]:
    """Without speed: jobs of a bench share a machine."""
    leads = {label: run for label, run in runs.items() if bench.leads(label)}
    return _quality_columns(known, bench.name(bench.base), leads) | cells_of(known, *bench.more)
