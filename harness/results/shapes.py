"""What the files of a run folder must look like: a file that does not is damaged, and counts as one that is not there."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

DIGITS = 9  # at most, after the point

TEXTS = ("label", "policy", "backbone", "world", "store", "comparable", "device", "finished")
MAPPINGS = ("metrics", "config", "failed", "git", "versions")


def check_results(results: Any) -> None:
    """results.json. Raises ValueError that says what is wrong with it."""
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
    _mapping(run.get("weights", {}), "run.weights")
    for policy, figures in _mapping(run["config"].get("published") or {}, "run.config.published").items():
        _numbers(_mapping(figures, f"run.config.published.{policy}").values(), f"run.config.published.{policy}")
    for key, entry in summary.items():
        ends = _mapping(entry, f"summary.{key}").get("ci95")
        if ends is not None and len(_rows(ends, f"summary.{key}.ci95")) != 2:
            raise ValueError(f"summary.{key}.ci95 has no two ends")
        _numbers([entry.get("mean"), *(ends or ())], f"summary.{key}")
        if not isinstance(entry.get("n"), int):
            raise ValueError(f"summary.{key} counts nothing")
    for column in _rows(results.get("columns", []), "columns"):
        _check_column(_mapping(column, "columns"))


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


def _check_column(column: Mapping[str, Any]) -> None:
    from metrics.column import GROUPS, Column  # not before it is settled whose `metrics` Python finds

    for field in fields(Column):
        value = column.get(field.name, None if field.default is MISSING else field.default)
        if not isinstance(value, int | float if field.type is float else field.type):  # pyright: ignore[reportArgumentType]
            raise ValueError(f"a column has {value!r} for {field.name}")
    if column["group"] not in GROUPS or not 0 <= column.get("decimals", 0) <= DIGITS or not math.isfinite(column.get("factor", 1.0)):
        raise ValueError(
            f"the column {column['key']} is of group {column['group']!r}, with {column.get('decimals')} decimals and factor {column.get('factor')}"
        )


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
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{name} has {value!r} for a number")
