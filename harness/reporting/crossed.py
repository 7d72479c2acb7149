"""The table of trained arms crossed with cache policies: what training changes under one policy, and whether the two add up."""

import re

from harness.reporting.benches import TRAINED
from harness.results.statistics import LEVEL, adjusted, paired

NAME = "trained"  # docs/results/trained.json, from outputs/trained
KEYS = {"crossed_recall": "recall/psnr", "crossed_revisit": "quality/psnr_revisit"}  # of blocks
OWN = "its own memory"
BASE, AGAINST = "base", "control"
WEIGHTS = (BASE, *TRAINED)
COLUMNS = (OWN, "full", "sliding", "worldkv", "retrieval_rebased", "reencode")
LABEL = re.compile(r"(?P<policy>\w+)(?: arm=(?P<arm>\S+))?")
SEED = re.compile(r"(?P<arm>\w+)_(?P<seed>\d+)/rooms_(?P=arm)")  # an arm of another training seed: outputs/ARM_SEED/rooms_ARM.safetensors


def cell_of(label: str) -> tuple[str, str] | None:
    """The weights and the column that a run belongs to; None for a run that is in no cell."""
    if not (found := LABEL.fullmatch(label)):
        return None
    policy, arm = found["policy"], found["arm"]
    if policy.startswith("trained_"):
        other = SEED.fullmatch(arm or "")
        return None if arm and not other else (policy.removeprefix("trained_"), f"{OWN}, seed {other['seed']}" if other else OWN)
    return (arm or BASE, policy) if policy in COLUMNS and (arm or BASE) in WEIGHTS else None


def crossed_table(key: str, table: dict) -> str:
    """Weights by policies: the mean of a column, and how far it is from the control arm's under the same policy, paired. Every arm's own memory is
    compared with the control's own, a window of sink and recent frames. Raises ValueError where the file has no run with values of that column."""
    values = {cell: table["values"][label] for label in table["runs"] if (cell := cell_of(label)) and label in table.get("values", {})}
    known = {cell: rows for cell, rows in values.items() if any(key in row for row in rows.values())}
    if not known:
        raise ValueError(f"docs/results/{NAME}.json has no run with values of {key}; collect outputs/{NAME} anew")
    compared = {cell: paired(known[cell], known[AGAINST, cell[1]], key) for cell in known if cell[0] != AGAINST and (AGAINST, cell[1]) in known}
    compared = {cell: entry for cell, entry in compared.items() if entry}
    q = dict(zip(compared, adjusted([entry["p"] for entry in compared.values()]), strict=True))

    def shown(cell: tuple[str, str]) -> str:
        if cell not in known:
            return ""
        numbers = [row[key] for row in known[cell].values() if key in row]
        mean = f"{sum(numbers) / len(numbers):.2f}"
        if not (entry := compared.get(cell)):
            return mean
        star = "*" if (p := q[cell]) is not None and p < LEVEL else ""
        return f"{mean} ({entry['mean']:+.2f}{star})"

    found = {policy for _, policy in known}
    policies = [c for c in (OWN, *sorted(c for c in found if c.startswith(f"{OWN},")), *COLUMNS[1:]) if c in found]
    weights = [w for w in WEIGHTS if any(w == mine for mine, _ in known)]
    head = ["| weights | " + " | ".join(f"`{c}`" if c in COLUMNS[1:] else c for c in policies) + " |", "| --- " * (len(policies) + 1) + "|"]
    body = [f"| {w} | " + " | ".join(shown((w, c)) for c in policies) + " |" for w in weights]
    about = f"dB; in brackets the difference to the control arm under the same policy, paired; * adjusted p < {LEVEL} among {len(compared)} differences"
    return "\n".join(
        [*head, *body, "", f"{about}; {table['trajectories']} held-out trajectories of `{table['world']}`, `{table['protocol']}`; {table['device']}."]
    )
