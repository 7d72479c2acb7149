"""Run folders to one dictionary that is written as JSON: all that the tables and the page know."""

import base64
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np

from harness.reporting.columns import columns_of, ends_of, revisits
from harness.reporting.curves import over_rollout
from harness.reporting.groups import Run, groups_of, other_weights, reasons, swept, varying
from harness.reporting.notes import BUSY, waited
from harness.reporting.table import BASELINE
from harness.reporting.trace import trace
from harness.results.statistics import interval, t_quantile
from harness.settings.policy_line import policy_line
from harness.system.files import file_name
from metrics.column import ARMS, Column, recalled

log = logging.getLogger(__name__)
RESAMPLES = 2000  # as in results.interval


def report(experiment: str, runs: Sequence[Run], unfinished: Sequence[str], baseline: str | None = None) -> dict:
    """Everything about an experiment's finished runs. baseline: a run's label (None: full, if there is one). A run whose files are
    damaged, however well-formed they are, is named and left out.

    Raises ValueError when no run is called so.
    """
    try:
        return _report(experiment, runs, unfinished, baseline)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError):
        whole = [r for r in runs if _is_whole(r)]
        if not whole or len(whole) == len(runs):
            raise
        return _report(experiment, whole, [*unfinished, *(r.path.name for r in runs if r not in whole)], baseline)


def _is_whole(run: Run) -> bool:
    """Whether a run can be shown by itself."""
    try:
        _report("", [replace(run, group=0)], [], run.label)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        log.warning("%s is damaged (%s: %s) and left out", run.path, type(error).__name__, error)
        return False
    return True


def _report(experiment: str, runs: Sequence[Run], unfinished: Sequence[str], baseline: str | None) -> dict:
    labels = sorted({r.label for r in runs})
    if baseline is not None and baseline not in labels:
        raise ValueError(f"no run is called {baseline!r}; use one of {', '.join(labels)}")
    groups = groups_of(runs)
    columns = columns_of(r.results for r in runs)
    settings = varying(runs)
    return {
        "experiment": experiment,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "columns": [asdict(c) for c in columns],
        "baseline": baseline or (BASELINE if BASELINE in labels else labels[0]),
        "groups": [_group(group, columns) for group in groups],
        "weights": [other_weights(group) for group in groups],
        "reasons": [[reasons(a[0], b[0]) for b in groups] for a in groups],
        "settings": settings,
        "swept": swept(runs),
        "shared": {k: _setting(v) for k, v in runs[0].settings.items() if k not in settings},
        "runs": [_run(run, groups[run.group], settings, columns) for run in runs],
        "unfinished": list(unfinished),
        "picks": {n: _picks(n) for n in sorted({len(_names(g)) for g in groups} | {len(r.values) for r in runs} - {0}) if n},
    }


@cache
def _picks(count: int) -> str:
    """The resamples of results.interval, so that the page's intervals for another baseline are the very same numbers."""
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    return base64.b64encode(picks.astype("u1" if count <= 256 else "<u2").tobytes()).decode()


def _names(group: Iterable[Run]) -> list[str]:
    return sorted({name for run in group for name in run.values})


def _group(group: Sequence[Run], columns: Sequence[Column]) -> dict:
    about, ends = group[0].about, ends_of(columns, group[0].summary)
    names = _names(group)
    cameras = {r.name: r.camera for run in reversed(group) for r in run.records if r.camera and _film(run, r.name)}
    pairs = _pairs(group)
    count = f"{len(names)} trajectories{f' with {pairs} revisit pairs' if pairs != '0' else ''}"
    title = f"{about['world']}{', ' + about['protocol'] if about['protocol'] else ''}, {count}, seed {about['seed']}, by {about['backbone']}"
    return {"title": title, "trajectories": names, "ends": ends, "cameras": cameras}


def _pairs(group: Sequence[Run]) -> str:
    """How many revisit pairs the runs of a group have: one number, or the fewest and the most."""
    counts = sorted({sum(len(r.pairs) for r in run.records) for run in group})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _entries(run: Run) -> dict[str, dict]:
    """The run's summary, with the intervals of what older folders did not sum up."""
    keys = {k for row in run.values.values() for k in row if (run.summary.get(k) or {"ci95": None})["ci95"] is None}
    return run.summary | {k: interval([row[k] for row in run.values.values() if k in row]) for k in sorted(keys)}


def _run(run: Run, group: Sequence[Run], settings: Sequence[str], columns: Sequence[Column]) -> dict:
    entries, names = _entries(run), _names(group)
    shown, metrics = [c.key for c in columns], [c.key for c in revisits(columns)]
    return {
        "id": run.path.name,
        "name": run.name,
        "label": run.label,
        "policy": run.about["policy"],
        "about": run.about.get("about_policy") or policy_line(run.about["policy"]),
        "group": run.group,
        "device": run.about["device"],
        "busy": waited(run) > BUSY,
        "commit": run.about["git"]["commit"][:8] + ("+" if run.about["git"]["dirty"] else ""),
        "finished": run.about["finished"],
        "versions": run.about["versions"],
        "failed": run.about["failed"],
        "settings": {k: _setting(run.settings.get(k)) for k in settings},
        "cells": {k: [_round(entries[k]["mean"]), *map(_round, entries[k]["ci95"] or ()), entries[k]["n"]] for k in shown if k in entries},
        "values": {k: [_round(run.values[n][k]) if n in run.values and k in run.values[n] else None for n in names] for k in shown if k in entries},
        "rollout": _over_rollout(run),
        "gap": _against(_rows(run, "pairs"), lambda pair: pair["gap_frames"], metrics),
        "when": _against(_rows(run, "pairs"), lambda pair: pair["revisit"], metrics),
        "recall_gap": _against(_rows(run, "probes"), lambda probe: probe["gap"], _recalled(run)),
        "recall_far": _against(_rows(run, "probes"), lambda probe: probe["metres"], _recalled(run)),
        "audit": _audited(run),
        "films": [_film_data(run, r.name, metrics) for r in run.records if _film(run, r.name)],
    }


def _over_rollout(run: Run) -> dict[str, list | int]:
    """FPS, stored bytes and tokens of generated chunks by first latent frame: the median over `n` of the run's trajectories."""
    n, curves = over_rollout([r.chunks for r in run.records])
    return {"n": n, "of": len(run.records), **{k: [_round(v) for v in values] for k, values in curves.items()}}


def _rows(run: Run, kind: str) -> list[tuple[str, dict]]:
    """Revisit pairs or recall probes, each with its trajectory's name."""
    return [(r.name, row) for r in run.records for row in getattr(r, kind)]


def _recalled(run: Run) -> list[str]:
    """The scores that its recall probes have, as their columns are called."""
    return [f"recall/{k}" for k in recalled(row for _, row in _rows(run, "probes"))]


def _audited(run: Run) -> dict[str, list]:
    """Recall with the right pages and with each replacement, of the probes that have all that were ever replaced: means over trajectories and half
    of a 95 % t interval, by score. x: right, and what they were replaced by."""
    rows = _rows(run, "probes")
    scores = recalled(row for _, row in rows)
    arms = [arm for arm in ARMS if any(f"{score}_{arm}" in row for _, row in rows for score in scores)]
    whole = [(name, row) for name, row in rows if all(f"{score}_{arm}" in row for score in scores for arm in arms)]
    if not arms or not whole:
        return {}
    names, found = sorted({name for name, _ in whole}), dict[str, list](x=["right", *arms])
    found["n"] = [len(names)] * (1 + len(arms))
    for score in scores:
        each = np.array([[np.mean([row[f"{score}{end}"] for n, row in whole if n == name]) for name in names] for end in ("", *(f"_{arm}" for arm in arms))])
        spread = each.std(1, ddof=1) if len(names) > 1 else [None] * len(each)
        found[f"recall/{score}"] = [_round(v) for v in each.mean(1)]
        found[f"error/{score}"] = [None if s is None else _round(t_quantile(len(names)) * s / len(names) ** 0.5) for s in spread]
    return found


def _against(pairs: Sequence[tuple[str, dict]], where: Callable[[dict], float], keys: Sequence[str], most: int = 12) -> dict[str, list]:
    """Quality (columns' keys) of revisit pairs or probes against a property of theirs, in at most `most` bins of equally many of them.

    Per bin and metric: the mean over trajectories and half of its 95 % t interval.
    """
    if not pairs:
        return {}
    x = np.array([where(p) for _, p in pairs])
    values = np.unique(x)
    edges = values if len(values) <= most else np.unique(np.quantile(x, np.linspace(0, 1, most + 1))[:-1])
    bins = np.searchsorted(edges, x, side="right") - 1
    names = sorted({name for name, _ in pairs})
    who = np.array([names.index(name) for name, _ in pairs])
    shape, flat = (len(edges), len(names)), bins * len(names) + who
    counts = np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape)
    full = counts.any(1)
    n = (counts > 0).sum(1)[full]
    found: dict[str, list] = {"x": [_round(v) for v in (np.bincount(bins, x, len(edges))[full] / counts.sum(1)[full])], "n": n.tolist()}
    for key in keys:
        score = key.removeprefix("quality/").removeprefix("recall/")
        if score not in pairs[0][1]:
            continue
        sums = np.bincount(flat, [p[score] for _, p in pairs], shape[0] * shape[1]).reshape(shape)
        each = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[full]  # a trajectory's mean in a bin
        spread = np.sqrt(np.nansum((each - np.nanmean(each, 1, keepdims=True)) ** 2, 1) / np.maximum(n - 1, 1))
        found[key] = [_round(v) for v in np.nanmean(each, 1)]
        found[f"error/{score}"] = [_round(t_quantile(int(k)) * s / k**0.5) if k > 1 else None for s, k in zip(spread, n, strict=True)]
    return found


def _film(run: Run, name: str) -> Path | None:
    path = run.path / "videos" / f"{file_name(name)}.mp4"
    return path if path.exists() else None


def _film_data(run: Run, name: str, keys: Sequence[str]) -> dict:
    """A filmed trajectory: its chunks and what became of the past, its revisit pairs. `truth`: the video's right half is the true view."""
    record = next(r for r in run.records if r.name == name)
    chunks = record.chunks
    metrics = [k for k in keys if record.pairs and k.removeprefix("quality/") in record.pairs[0]]
    return {
        "name": name,
        "truth": (run.path / "videos" / f"{file_name(name)}_true.png").exists(),
        "frames_px": [int(row["frames_px"]) for row in chunks] or [int(record.values["frames"])],  # of another system's video no chunks are known
        "latent": int(chunks[0]["frames"] if chunks else record.values["frames"]),
        "forced": "".join("1" if row["forced"] else "0" for row in chunks) or "0",
        "tokens": [row["attended_rows"] for row in chunks],
        "trace": asdict(trace(chunks)),
        "metrics": metrics,
        "pairs": [
            [int(p["first"]), int(p["revisit"]), *(_round(p[k.removeprefix("quality/")]) for k in metrics)]
            for p in sorted(record.pairs, key=lambda p: p["revisit"])
        ],
    }


def _setting(value: object) -> object:
    """JSON has no infinity (`retrieved: .inf` is no limit), and a list is shown, not counted with."""
    return value if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)) else str(value)


def _round(value: float) -> float | None:
    """Seven digits; None for what JSON has no number for."""
    return float(f"{value:.7g}") if np.isfinite(value) else None
