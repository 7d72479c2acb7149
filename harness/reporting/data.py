"""Run folders to one dictionary that is written as JSON: all that the tables and the page know."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np

from harness.reporting.columns import COLUMNS, SPEED, frames_px
from harness.reporting.groups import Run, groups_of, reasons, swept, varying
from harness.reporting.table import BASELINE
from harness.reporting.trace import memory
from harness.results.statistics import interval

RESAMPLES = 2000  # as in results.interval


def report(experiment: str, runs: Sequence[Run], unfinished: Sequence[str], baseline: str | None = None) -> dict:
    """Everything about an experiment's finished runs. baseline: a run's label (None: full, if there is one).

    Raises ValueError when no run is called so.
    """
    labels = sorted({r.label for r in runs})
    if baseline is not None and baseline not in labels:
        raise ValueError(f"no run is called {baseline!r}; use one of {', '.join(labels)}")
    groups = groups_of(runs)
    columns = [c for c in COLUMNS if any(c.key in _entries(r) for r in runs)]
    settings = varying(runs)
    return {
        "experiment": experiment,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "columns": [asdict(c) for c in columns],
        "speed": SPEED,
        "baseline": baseline or (BASELINE if BASELINE in labels else labels[0]),
        "groups": [_group(group) for group in groups],
        "reasons": [[reasons(a[0], b[0]) for b in groups] for a in groups],
        "settings": settings,
        "swept": swept(runs),
        "shared": {k: _setting(v) for k, v in runs[0].settings.items() if k not in settings},
        "runs": [_run(run, groups[run.group], settings) for run in runs],
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


def _group(group: Sequence[Run]) -> dict:
    about, summary = group[0].about, group[0].summary
    ends = {f"{m}_{w}": summary[f"quality/{m}_{w}"]["mean"] for m in ("psnr", "ssim", "lpips") for w in ("floor", "ceiling") if f"quality/{m}_{w}" in summary}
    names = _names(group)
    cameras = {r.name: r.camera for run in reversed(group) for r in run.records if r.camera and _film(run, r.name)}
    title = f"{about['world']}{', ' + about['protocol'] if about['protocol'] else ''}, {len(names)} trajectories, seed {about['seed']}, by {about['backbone']}"
    return {"title": title, "trajectories": names, "ends": ends, "cameras": cameras}


def _entries(run: Run) -> dict[str, dict]:
    """The run's summary, with the columns that are derived here."""
    keys = {k for row in run.values.values() for k in row} - run.summary.keys()
    return run.summary | {k: interval([row[k] for row in run.values.values() if k in row]) for k in sorted(keys)}


def _run(run: Run, group: Sequence[Run], settings: Sequence[str]) -> dict:
    entries, names = _entries(run), _names(group)
    shown = [c.key for c in COLUMNS]
    return {
        "id": run.path.name,
        "name": run.name,
        "label": run.label,
        "policy": run.about["policy"],
        "group": run.group,
        "device": run.about["device"],
        "commit": run.about["git"]["commit"][:8] + ("+" if run.about["git"]["dirty"] else ""),
        "finished": run.about["finished"],
        "versions": run.about["versions"],
        "failed": run.about["failed"],
        "settings": {k: _setting(run.settings.get(k)) for k in settings},
        "cells": {k: [_round(entries[k]["mean"]), *map(_round, entries[k]["ci95"] or ()), entries[k]["n"]] for k in shown if k in entries},
        "values": {k: [_round(run.values[n][k]) if n in run.values and k in run.values[n] else None for n in names] for k in shown if k in entries},
        "rollout": _over_rollout(run),
        "gap": _against(run, lambda pair: pair["gap_frames"]),
        "when": _against(run, lambda pair: pair["revisit"]),
        "films": [_film_data(run, r.name) for r in run.records if _film(run, r.name)],
    }


def _over_rollout(run: Run) -> dict[str, list]:
    """FPS, tokens and stored bytes of generated chunks: the median over trajectories, by first latent frame."""
    rows: dict[int, list[dict]] = {}
    for record in run.records:
        for row in record.chunks:
            if not row["forced"]:
                rows.setdefault(int(row["start"]), []).append(row)

    def curve(value: Callable[[dict], float]) -> list:
        return [_round(float(np.median([value(r) for r in rows[x]]))) for x in sorted(rows)]

    return {
        "frame": sorted(rows),
        "cost/fps_mean": curve(lambda r: frames_px(r) / max(1e-9, sum(v for k, v in r.items() if k.startswith("seconds_")))),
        "cost/attended_tokens": curve(lambda r: r["attended_rows"]),
        "cost/stored_bytes": curve(lambda r: r["window_bytes"] + sum(v for k, v in r.items() if k.startswith("bank_bytes_"))),
    }


def _against(run: Run, where: Callable[[dict], float], most: int = 12) -> dict[str, list]:
    """Quality of revisit pairs against a property of theirs, in at most `most` bins of equally many pairs.

    Per bin and metric: the mean over trajectories and 1.96 standard errors over trajectories.
    """
    pairs = [(r.name, p) for r in run.records for p in r.pairs]
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
    for metric in ("psnr", "ssim", "lpips"):
        if f"{metric}_revisit" not in pairs[0][1]:
            continue
        sums = np.bincount(flat, [p[f"{metric}_revisit"] for _, p in pairs], shape[0] * shape[1]).reshape(shape)
        each = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)[full]  # a trajectory's mean in a bin
        spread = np.sqrt(np.nansum((each - np.nanmean(each, 1, keepdims=True)) ** 2, 1) / np.maximum(n - 1, 1))
        found[f"quality/{metric}_revisit"] = [_round(v) for v in np.nanmean(each, 1)]
        found[f"error/{metric}_revisit"] = [_round(1.96 * s / k**0.5) if k > 1 else None for s, k in zip(spread, n, strict=True)]
    return found


def _film(run: Run, name: str) -> Path | None:
    path = run.path / "videos" / f"{name}.mp4"
    return path if path.exists() else None


def _film_data(run: Run, name: str) -> dict:
    """A filmed trajectory: its chunks and their memory, its revisit pairs. `truth`: the video's right half is the true view."""
    record = next(r for r in run.records if r.name == name)
    chunks = record.chunks
    metrics = [m for m in ("psnr", "ssim", "lpips") if record.pairs and f"{m}_revisit" in record.pairs[0]]
    return {
        "name": name,
        "truth": (run.path / "videos" / f"{name}_true.png").exists(),
        "frames_px": [frames_px(row) for row in chunks],
        "latent": int(chunks[0]["frames"]) if chunks else 0,
        "forced": "".join("1" if row["forced"] else "0" for row in chunks),
        "tokens": [row["attended_rows"] for row in chunks],
        "memory": asdict(memory(chunks)),
        "metrics": metrics,
        "pairs": [
            [int(p["first"]), int(p["revisit"]), *(_round(p[f"{m}_revisit"]) for m in metrics)] for p in sorted(record.pairs, key=lambda p: p["revisit"])
        ],
    }


def _setting(value: object) -> object:
    """JSON has no infinity (`retrieved: .inf` is no limit), and a list is shown, not counted with."""
    return value if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)) else str(value)


def _round(value: float) -> float | None:
    """Seven digits; None for what JSON has no number for."""
    return float(f"{value:.7g}") if np.isfinite(value) else None
