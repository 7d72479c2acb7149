"""A bench at all of its budgets, side by side: whether the order of the policies stays."""

from harness.reporting.benches import BENCHES, BUDGETS
from harness.reporting.cells import Cell, Link, best_first, difference_cell, mean_cell, read_table, rows_of
from harness.results.statistics import LEVEL
from metrics.column import Column

SHOWN = ("quality/psnr_revisit", "quality/psnr_reference", "recall/psnr", "quality/contrast")
Runs = dict[str, dict]  # by the label that a run has at the first budget


def budgets_table(name: str, table: dict, link: Link) -> str:
    """Revisits and recall of every policy at every budget, each with its difference to the base at the same budget, best first at the first budget. Rows
    are those that were run at more than one.

    Raises ValueError where no policy was.
    """
    bench = BENCHES[BUDGETS[name]]
    runs, known = read_table(table, bench.base)
    leads = [label for label in runs if bench.leads(label)]
    runs = {label: run | {"bands": {}} for label, run in runs.items()}  # noise was measured at the first budget alone
    values = sorted(bench.values)
    at: dict[str, Runs] = {value: {lead: runs[bench.at(lead, value)] for lead in leads if bench.at(lead, value) in runs} for value in values}
    others = {lead for value in bench.others for lead in at[value]}
    if not others:
        raise ValueError(f"docs/results/{BUDGETS[name]}.json has no run at {bench.key}={','.join(bench.others)}, which the table `{name}` shows")
    by_key = {c.key: c for c in known}
    columns = {f"{by_key[key].heading}, {bench.key}={v}": _cell(by_key[key], at[v]) for v in values for key in SHOWN if at[v] and key in by_key}
    rows = best_first({bench.name(lead): runs[lead] | {"lead": lead} for lead in leads if lead in others}, known)
    counts = ", ".join(f"{len([r for r in at[v].values() if r['difference']])} at {v}" for v in values)
    compared = f"paired difference to `{bench.name(bench.base)}` at the same {bench.key} with its 95 % interval"
    about = f"Mean, and the {compared}; * adjusted p < {LEVEL} among the runs at one {bench.key} ({counts})"
    where = f"{table['trajectories']} held-out trajectories of `{table['world']}`, `{table['protocol']}`"
    return "\n".join([*rows_of(columns, rows, link), "", f"{about}. {where}; {table['device']}."])


def _cell(c: Column, runs: Runs) -> Cell:
    mean, difference = mean_cell(c), difference_cell(c, {run["label"]: run for run in runs.values()})

    def cell(row: dict) -> str:
        if not (run := runs.get(row["lead"])):
            return ""
        return f"{mean(run)} ({compared})" if (compared := difference(run)) else mean(run)

    return cell
