"""The table of a substitution audit: how much recall falls when what a policy brought back is replaced."""

from collections.abc import Callable

from harness.results.statistics import LEVEL, adjusted, interval, p_value
from metrics.column import ARMS
from metrics.retention import PRICES

NAMES = ("houses_audit", "trained_audit")  # docs/results/NAME.json, and blocks
RECALL = "recall/psnr"
KEYS = (RECALL, *(f"audit/psnr_{arm}" for arm in ARMS))
FLOOR = "none"  # what a memory is worth is its gain over nothing
WRONG = ("wrong", "other")  # a gain is memory where the right pages beat the first of these that there is


def audit_table(table: dict, link: Callable[[str], str], concepts: str) -> str:
    """Policies by what their pages were replaced by: recall less recall so. table: what docs/results holds, with the values of every trajectory.

    A star: sign flips over trajectories, adjusted over all cells of the table. What is kept per MB and per thousand tokens is the mean gain over
    nothing by the mean price.
    """
    shown = {
        (label, arm): [row[f"audit/psnr_{arm}"] for row in rows.values() if f"audit/psnr_{arm}" in row]
        for label, rows in table["values"].items()
        for arm in ARMS
    }
    gains = {cell: values for cell, values in shown.items() if values}
    if not gains:
        raise ValueError("no run of this table was audited; give probes.audit=[wrong,other,none]")
    q = dict(zip(gains, adjusted([p_value(tuple(values)) for values in gains.values()]), strict=True))
    sure = {cell for cell, p in q.items() if p is not None and p < LEVEL}
    recall = {label: interval(found) for label, rows in table["values"].items() if (found := [row[RECALL] for row in rows.values() if RECALL in row])}
    arms = [arm for arm in ("none", "wrong", "other", "mean") if any(arm == mine for _, mine in gains)]

    def cell(label: str, arm: str) -> str:
        if (label, arm) not in gains:
            return "-"
        entry = interval(gains[label, arm])
        between = f" [{', '.join(f'{x:+.2f}' for x in entry['ci95'])}]" if entry["ci95"] else ""
        return f"{entry['mean']:+.2f}{'*' if (label, arm) in sure else ''}{between}"

    def verdict(label: str) -> str:
        against = next((arm for arm in WRONG if (label, arm) in gains), None)
        if against is None:
            return "-"
        if (label, against) not in sure or interval(gains[label, against])["mean"] <= 0:
            return "not shown"
        return "yes" if against == WRONG[0] else f"yes, by `{against}`"

    def kept(label: str, key: str, size: float) -> str:
        price = table.get("runs", {}).get(label, {}).get("summary", {}).get(key)
        return f"{interval(gains[label, FLOOR])['mean'] / (price['mean'] / size):.2f}" if price and (label, FLOOR) in gains else ""

    def row(label: str) -> list[str]:
        return [*(cell(label, arm) for arm in arms), *(kept(label, key, size) for key, size, _, _ in PRICES.values()), verdict(label)]

    head = ["policy", "PSNR recall", *(f"over `{arm}`" for arm in arms), *(f"kept per {unit}" for *_, unit, _ in PRICES.values()), "is it memory"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for label, entry in sorted(recall.items(), key=lambda item: -item[1]["mean"]):
        lines.append("| " + " | ".join([link(label), f"{entry['mean']:.2f}", *row(label)]) + " |")
    about = f"dB, {table['trajectories']} held-out trajectories of `{table['world']}`, `{table['protocol']}`, seed {table['seed']}; {table['device']}"
    star = f"* adjusted p < {LEVEL} among {len(gains)} comparisons ([what is replaced]({concepts}#is-it-memory); - cannot be)"
    return "\n".join([*lines, "", f"{about}. {star}."])
