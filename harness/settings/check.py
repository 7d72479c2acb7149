"""The one check of settings before anything is built: every `_target_` against the annotations of the constructor that it names.

pydantic does the work, strictly: no text for numbers, no truth values for numbers, no NaN. What only several settings together
decide is checked by the constructors, which raise ValueError.
"""

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from harness.settings.ranges import Unbounded
from harness.settings.words import allowed, members, shown

OURS = ("policies", "backbones", "metrics", "harness")  # whose classes settings may name
MISSING = "???"
LISTED = 6  # problems in a message


def check(node: object, where: str, kind: Any = Any, plugins: Sequence[str] = ()) -> None:
    """Hold the settings of one part to what its class declares. where: its name on the command line, such as `policy`. kind: the
    annotation that it has to meet. plugins: packages that may be named besides ours.

    Raises ValueError that names every setting that is wrong as one types it, its value and what is allowed.
    """
    _raise(list(_problems(kind, node, where, (*OURS, *plugins))))


def check_fields(given: Mapping[str, object], declared: type, where: str = "", plugins: Sequence[str] = ()) -> None:
    """As `check`, for settings without a `_target_`: those of a dataclass, `declared`."""
    _raise(list(_fields(declared, given, where, (*OURS, *plugins))))


def check_object(thing: object, where: str) -> None:
    """As `check`, for an object that was made in Python: a dataclass's fields, and those of its parts."""
    _raise(list(_of_object(thing, where)))


def _of_object(thing: Any, where: str) -> Iterator[str]:
    if not is_dataclass(thing) or isinstance(thing, type):
        return
    hints, _ = _declared(type(thing))
    for f in fields(thing):
        value = getattr(thing, f.name)
        if f.init and is_dataclass(value) and not isinstance(value, type):
            yield from _of_object(value, f"{where}.{f.name}")
        elif f.init:
            yield from _problems(hints.get(f.name, Any), value, f"{where}.{f.name}", ())


def _raise(problems: list[str]) -> None:
    if problems:
        more = f"; and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise ValueError("; ".join(problems[:LISTED]) + more)


def _problems(kind: Any, value: object, where: str, packages: Sequence[str], section: bool = False) -> Iterator[str]:
    """section: whether a mapping may be a dataclass without its name, as in a part of the settings that no `_target_` stands above."""
    if isinstance(value, Mapping) and "_target_" in value:
        yield from _part(kind, value, where, packages)
        return
    if value == MISSING and isinstance(value, str):
        yield f"{where} is not set; give it as {where}=..., {allowed(kind)}"
        return
    elements, classes = _elements(kind), _classes(kind)
    if isinstance(value, list | tuple) and elements is not None and _classes(elements):
        for i, one in enumerate(value):
            yield from _problems(elements, one, f"{where}[{i}]", packages, section)
    elif isinstance(value, Mapping) and section and classes and is_dataclass(classes[0]):
        yield from _fields(classes[0], value, where, packages)
    elif classes:
        if not isinstance(value, tuple(classes)) and (value is not None or NoneType not in members(kind)):
            yield f"{where}={shown(value)}: use {allowed(kind)}"
    elif any(isinstance(v, Mapping) and "_target_" in v for v in _inner(value)):
        yield f"{where}={shown(value)}: a part stands in a setting of its own; use {allowed(kind)}"
    elif not _fits(kind, value):
        yield f"{where}={shown(value)}: use {allowed(kind)}"


def _part(kind: Any, node: Mapping, where: str, packages: Sequence[str]) -> Iterator[str]:
    """A mapping with a `_target_`."""
    path = node["_target_"]
    if not isinstance(path, str) or path.partition(".")[0] not in packages:
        yield f"{where}._target_={path}: classes come from {', '.join(packages)}; name another package of yours with plugins=[PACKAGE]"
        return
    try:
        target = locate(path)
    except (ImportError, AttributeError, ValueError) as error:
        yield f"{where}._target_={path}: there is no such class ({error})"
        return
    wanted = [c for c in _classes(kind) if c is not object]
    made = target if isinstance(target, type) else get_type_hints(target).get("return", object)
    if not callable(target) or wanted and not (isinstance(made, type) and issubclass(made, tuple(wanted))):
        yield f"{where}._target_={path}: this is no {' or '.join(c.__name__ for c in wanted) or 'class'}"
        return
    yield from _arguments(target, {k: v for k, v in node.items() if k != "_target_"}, where, packages)


def _fields(declared: type, value: Mapping, where: str, packages: Sequence[str]) -> Iterator[str]:
    """A mapping that is a dataclass without its name: its fields, and what it says of them together."""
    found = list(_arguments(declared, value, where, packages, section=True))
    yield from found
    if not found:
        try:
            declared(**value)
        except ValueError as error:
            yield str(error)


def _arguments(target: Any, given: Mapping, where: str, packages: Sequence[str], section: bool = False) -> Iterator[str]:
    hints, parameters = _declared(target)
    prefix = f"{where}." if where else ""
    for name in given:
        if name not in parameters:
            there = ", ".join(parameters) or "none"
            yield f"there is no setting {prefix}{name}; there {'is' if len(parameters) == 1 else 'are'} {there}"
    for name, parameter in parameters.items():
        if name in given:
            yield from _problems(hints.get(name, Any), given[name], f"{prefix}{name}", packages, section)
        elif parameter.default is inspect.Parameter.empty:
            yield f"{prefix}{name} is not set; give it as {prefix}{name}=..., {allowed(hints.get(name, Any))}"


@cache
def _declared(target: Any) -> tuple[dict[str, Any], dict[str, inspect.Parameter]]:
    """Annotations and parameters of a constructor or a function."""
    hints = get_type_hints(target.__init__ if isinstance(target, type) else target, include_extras=True)
    found = inspect.signature(target).parameters
    return hints, {k: p for k, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def locate(path: str) -> Any:
    """A class or function by its dotted name; nothing but its module is imported. Raises ImportError, AttributeError or ValueError."""
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError("give MODULE.CLASS")
    return getattr(import_module(module), name)


def _fits(kind: Any, value: object) -> bool:
    if isinstance(value, float) and math.isinf(value):
        return value > 0 and any(isinstance(m, Unbounded) for m in _metadata(kind))
    from pydantic import ValidationError

    try:
        _adapter(kind).validate_python(_tuples(value))
    except ValidationError:
        return False
    return True


@cache
def _adapter(kind: Any):
    """pydantic is imported here: it takes a tenth of a second, which --help and typos do without."""
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True))


def _tuples(value: object) -> object:
    """Lists as tuples, which every declaration takes."""
    if isinstance(value, list | tuple):
        return tuple(map(_tuples, value))
    return {k: _tuples(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _inner(value: object) -> Iterator[object]:
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield one
        yield from _inner(one)


def _elements(kind: Any) -> Any:
    """What a list of this kind holds; None for what is no list."""
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return get_args(bare)[0] if get_origin(bare) in (tuple, list, Sequence) else None


def _metadata(kind: Any) -> Iterator[object]:
    for member in members(kind):
        if get_origin(member) is Annotated:
            yield from get_args(member)[1:]
            yield from _metadata(get_args(member)[0])


def _classes(kind: Any) -> list[type]:
    """The classes of ours, or of a plugin, that an annotation asks for."""
    bare = [get_args(m)[0] if get_origin(m) is Annotated else m for m in members(kind)]
    return [m for m in bare if isinstance(m, type) and m.__module__ not in ("builtins", "pathlib", "collections.abc", "typing")]
