"""The table of an arm's trainings: what they cost, and what validation showed. From the folders that harness/train.py arm=NAME wrote."""

import csv
import json
from pathlib import Path
from statistics import mean

from safetensors import safe_open

from harness.reporting.benches import TRAINED

NAME = "trainings"  # docs/results/trainings.json, and the block
LOSSES = {"loss": "val/loss", "loss_pure_noise_houses": "val/loss_pure_noise_houses", "loss_pure_noise_rooms": "val/loss_pure_noise_rooms"}
GAPS = (1, 4, 8, 15)  # chunks, of the table; the file has all

ABOUT = "Recall in dB, against the true view of 4 rooms and 4 houses of the validation scenes, by chunks since the view was seen, under the arm's own policy."


def is_training(folder: Path) -> bool:
    """Whether a folder holds an arm's training, and not runs."""
    return (folder / "arm.json").is_file()


def trained(folder: Path) -> tuple[str, dict]:
    """The name of a training, `ARM seed SEED`, and what is known of it. Raises ValueError for one that is not finished."""
    file = next(folder.glob("*_*.safetensors"), None)  # NAME_ARM; what stages left have no underscore
    begun = json.loads((folder / "arm.json").read_text())
    if file is None:
        raise ValueError(f"{folder} holds a training that is not finished; run its command again")
    with safe_open(file, "pt") as weights:
        about = json.loads(weights.metadata()["arm"])
        added = sum(weights.get_tensor(k).numel() for k in weights.keys() if k.startswith("memory."))  # noqa: SIM118  (not a dict)
    logs = sorted((folder / "arm").glob("log_from_*/metrics.csv"))  # one a start; a validation that was killed is in two
    rows = {int(row["step"]): row for log in logs for row in csv.DictReader(log.open()) if row.get("val/loss")}
    recall: dict[int, dict[int, list[float]]] = {}
    for row in csv.DictReader((folder / "samples" / "recall.csv").open()):
        recall.setdefault(int(row["step"]), {}).setdefault(int(row["gap"]), []).append(float(row["psnr"]))
    if len(rows) != len(recall):
        raise ValueError(f"{folder}: {len(rows)} validations in arm/log_from_*/metrics.csv and {len(recall)} in samples/recall.csv; one of them was changed")
    measured = [row for _, row in sorted(rows.items())]
    curve = [
        {"step": step, **{k: round(float(row[key]), 5) for k, key in LOSSES.items() if row.get(key)}, "recall": {g: round(mean(v), 3) for g, v in gaps.items()}}
        for (step, gaps), row in zip(sorted(recall.items()), measured, strict=True)
    ]
    hours = round(float(measured[-1]["val/cpu_hours"]), 5) if measured[-1].get("val/cpu_hours") else None
    entry = {"arm": about["arm"], "seed": about["seed"], "steps": about["steps"], "parameters": added, "precision": begun["precision"], "cpu_hours": hours}
    return f"{about['arm']} seed {about['seed']}", {**entry, "curve": curve}


def trainings_table(table: dict[str, dict]) -> str:
    """A row a training, arms in their order: cost, and the last validation. table: what docs/results/trainings.json holds."""
    head = ["arm", "seed", "steps", "parameters added", "precision", "CPU hours", "loss on pure noise, houses", *(f"recall at {gap}" for gap in GAPS)]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for row in sorted(table.values(), key=lambda r: (TRAINED.index(r["arm"]), r["seed"])):
        last = row["curve"][-1]
        hours = "-" if row["cpu_hours"] is None else f"{row['cpu_hours']:.2f}"
        about = [f"`{row['arm']}`", str(row["seed"]), str(row["steps"]), f"{row['parameters']:,}", row["precision"], hours]
        shown = [f"{last['loss_pure_noise_houses']:.4f}", *(f"{last['recall'][str(gap)]:.2f}" for gap in GAPS)]
        lines.append("| " + " | ".join([*about, *shown]) + " |")
    return "\n".join([*lines, "", ABOUT])
