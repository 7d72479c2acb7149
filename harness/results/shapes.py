"""What the files of a run folder must look like: a file that does not is damaged, and counts as one that is not there."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

TEXTS = ("label", "policy", "backbone", "world", "store", "comparable", "device", "finished")
MAPPINGS = ("metrics", "config", "failed", "git", "versions")


def check_results(results: Any) -> None:
    """results.json, without its columns. Raises ValueError that says what is wrong with it."""
    whole = _mapping(results, "results")
    run, summary = _mapping(whole.get("run"), "run"), _mapping(whole.get("summary"), "summary")
    for name in TEXTS:
        if not isinstance(run.get(name), str):
            raise ValueError(f"run.{name} is no text")
    for name in MAPPINGS:
        _mapping(run.get(name), f"run.{name}")
    if not isinstance(run.get("seed"), int) or not isinstance(run.get("trajectories"), int):
        raise ValueError("run.seed or run.trajectories is no number")
    if not isinstance(run["git"].get("commit"), str) or "dirty" not in run["git"]:
        raise ValueError("run.git names no commit")
    for key, entry in summary.items():
        _numbers([_mapping(entry, f"summary.{key}").get("mean"), *(entry.get("ci95") or ())], f"summary.{key}")
        if not isinstance(entry.get("n"), int):
            raise ValueError(f"summary.{key} counts nothing")
    columns = results.get("columns", [])
    if not isinstance(columns, list) or not all(isinstance(c, dict) and isinstance(c.get("key"), str) for c in columns):
        raise ValueError("columns is no list of columns")


def check_record(record: Any) -> None:
    """A trajectory's record. Raises ValueError that says what is wrong with it."""
    _mapping(record, "record")
    for name in ("name", "noise", "error"):
        if not isinstance(record.get(name, ""), str):
            raise ValueError(f"{name} is no text")
    if "name" not in record:
        raise ValueError("it has no name")
    _numbers(_mapping(record.get("values"), "values").values(), "values")
    for name in ("pairs", "chunks", "probes"):
        for row in _rows(record.get(name, []), name):
            _mapping(row, name)
            _numbers((v for v in row.values() if not (name == "chunks" and isinstance(v, str))), name)
    for row in _rows(record.get("camera", []), "camera"):
        if len(_rows(row, "camera")) != 3:
            raise ValueError("camera has no x, z and heading")
        _numbers(row, "camera")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {'absent' if value is None else f'a {type(value).__name__}'}")
    return value


def _rows(value: Any, name: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{name} is no list")
    return value


def _numbers(values: Iterable[Any], name: str) -> None:
    for value in values:
        if not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"{name} has {value!r} for a number")
