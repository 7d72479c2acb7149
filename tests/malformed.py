"""Malformed settings, made from what the constructors declare: every argument of every class that a file in conf/ names.

`python -m tests.malformed` puts them to every command, each in a process of its own, and writes the table of docs/reliability.md.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt, Predicate
from hydra import compose, initialize_config_dir

from harness.settings.build import plain
from harness.settings.check import _declared, locate
from harness.settings.command_line import CONF
from harness.settings.ranges import Unbounded

CANDIDATES: tuple[Any, ...] = (
    "abc", "", "3", "1e3", "nan", None, True, False, 1.5, -1, -1.5, 0, 0.0, 10**15, -(10**15), 1e300, math.nan, math.inf, -math.inf,
    [], [1], [-1, 2], ["a"], [None], {}, {"a": 1}, {"_target_": "os.system", "command": "touch ran"}, "../../x", "a\x00b",
)  # fmt: skip
TEXT = (str, "pathlib.Path")


@dataclass(frozen=True)
class Site:
    """A setting: group and path as one types it, the overrides that choose its class, what is declared of it."""

    where: str
    overrides: tuple[str, ...]
    kind: Any

    @property
    def group(self) -> str:
        return self.where.partition(".")[0]


def options() -> Iterator[tuple[str, ...]]:
    """Overrides that together bring in every class of conf/."""
    parts = {"selector": "worldkv", "compressor": "worldkv", "placement": "worldkv", "likeness": "places", "scorer": "h2o", "split": "h2o"}
    for part, policy in parts.items():
        yield from ((f"policy={policy}", f"policy/{part}={name}") for name in _with_class(f"policy/{part}"))
    yield from (("store=disk", f"store/codec={name}") for name in _with_class("store/codec"))
    for group in ("policy", "backbone", "world", "store", "metric"):
        yield from ((f"{group}={name}",) for name in _with_class(group))


def _with_class(group: str) -> list[str]:
    """Options that name a class themselves; the others change settings of these."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml") if "_target_:" in p.read_text())


@cache
def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return plain(compose("config", list(overrides)))


@cache
def sites() -> list[Site]:
    """One of every argument of every class."""
    found: dict[tuple[str, str], Site] = {}
    for overrides in options():
        settings = composed(*overrides)
        for group in ("policy", "backbone", "world", "store", "metric"):
            for where, node in nodes(settings[group], group):
                hints, parameters = _declared(locate(node["_target_"]))
                for name in parameters:
                    found.setdefault((node["_target_"], name), Site(f"{where}.{name}", overrides, hints.get(name, Any)))
    return list(found.values())


def nodes(node: Any, where: str) -> Iterator[tuple[str, dict]]:
    """Every mapping with a `_target_`, and its name."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield where, dict(node)
        for key, value in node.items():
            yield from nodes(value, f"{where}.{key}")


def malformed(site: Site) -> list[Any]:
    """Values that are none of what the setting may be."""
    return [v for v in CANDIDATES if not accepts(site.kind, v)]


def extremes(kind: Any) -> list[Any]:
    """The least and the greatest that a number may be."""
    values: list[Any] = []
    for member in _members(kind):
        if get_origin(member) is Annotated:
            bounds = _flat(member)[1]
            values += [b.ge for b in bounds if isinstance(b, Ge)] + [b.le for b in bounds if isinstance(b, Le)]
        elif get_origin(member) is Literal:
            values += get_args(member)
    return values


def accepts(kind: Any, value: Any) -> bool:
    """What the annotation says, read a second time and without a library."""
    if kind is Any:
        return True
    members = _members(kind)
    if len(members) > 1:
        return any(accepts(m, value) for m in members)
    if get_origin(kind) is Annotated:
        base, metadata = _flat(kind)
        unbounded = isinstance(value, float) and value == math.inf and any(isinstance(m, Unbounded) for m in metadata)
        return (unbounded or accepts(base, value)) and all(_holds(m, value) for m in metadata)
    if get_origin(kind) is Literal:
        return any(value == o and type(value) is type(o) for o in get_args(kind))
    if get_origin(kind) in (tuple, Sequence):
        return isinstance(value, list) and all(accepts(get_args(kind)[0], v) for v in value)
    if get_origin(kind) is Mapping:
        return isinstance(value, dict) and all(isinstance(k, str) and accepts(get_args(kind)[1], v) for k, v in value.items())
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    if kind in (int, bool, str, NoneType):
        return type(value) is kind
    return is_dataclass(kind) and False


def _holds(rule: Any, value: Any) -> bool:
    match rule:
        case Ge(ge=low):
            return value >= low
        case Gt(gt=low):
            return value > low
        case Le(le=high):
            return value <= high
        case Lt(lt=high):
            return value < high
        case Len(min_length=least, max_length=most):
            return len(value) >= least and (most is None or len(value) <= most)
        case Predicate(func=test):
            return bool(test(value))
    return True


def _flat(kind: Any) -> tuple[Any, list[Any]]:
    base, *metadata = get_args(kind)
    if get_origin(base) is Annotated:
        inner, more = _flat(base)
        return inner, [*metadata, *more]
    return base, metadata


def _members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def put(settings: dict, where: str, value: Any) -> dict:
    """The group's settings with one of them replaced."""
    group, *path = where.split(".")
    node = top = _copied(settings[group])
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return top


def _copied(node: Any) -> Any:
    return {k: _copied(v) for k, v in node.items()} if isinstance(node, Mapping) else node
