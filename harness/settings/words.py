"""What an annotation allows, and a value, as messages say it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Len, Lt

from harness.settings.ranges import Rule, Unbounded

SHOWN = 60  # characters of a value in a message
BEYOND = 10**9  # bounds from here on need not be said


def short_file(text: str) -> str:
    """A file by its folder's name and its own, without the ending; any other text as it is."""
    path = Path(text)
    return "/".join([*path.parts[-2:-1], path.stem]) if path.suffix and len(path.parts) > 1 else text


def members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def allowed(kind: Any) -> str:
    """What an annotation allows, in words: `a whole number from 0`."""
    options = members(kind)
    if len(options) > 1:
        words = [allowed(m) for m in options if m is not NoneType]
        return " or ".join([*words, *(["null"] if NoneType in options else [])])
    if get_origin(kind) is Annotated:
        base, *more = get_args(kind)
        if rules := [m.words for m in more if isinstance(m, Rule)]:
            return rules[0]
        words = allowed(base)
        return f"{_counted(words, more)}{_range(more)}{', or inf for no limit' if any(isinstance(m, Unbounded) for m in more) else ''}"
    if get_origin(kind) is Literal:
        return _either(get_args(kind))
    if get_origin(kind) in (tuple, list, Sequence):
        return f"a list, each {allowed(get_args(kind)[0])}"
    if get_origin(kind) in (dict, Mapping):
        return f"names with a value each, {allowed(get_args(kind)[1])}"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
    if kind in plain:
        return plain[kind]
    return f"a {kind.__name__} (settings with its _target_)" if isinstance(kind, type) and kind.__module__ != "pathlib" else "a value of its kind"


def _either(options: Sequence[object]) -> str:
    *first, last = map(str, options)
    return f"{', '.join(first)} or {last}" if first else last


def _counted(words: str, metadata: Sequence[object]) -> str:
    for length in (m for m in metadata if isinstance(m, Len)):
        if length.min_length == length.max_length:
            return words.replace("a list", f"a list of {length.min_length}")
        return words.replace("a list", f"a list of {length.min_length} or more" if length.max_length is None else f"a list of up to {length.max_length}")
    return words


def _range(metadata: Sequence[object]) -> str:
    low = [f"from {m.ge:,}" if isinstance(m, Ge) else f"above {m.gt:,}" for m in metadata if isinstance(m, Ge | Gt)]
    high = [f"to {m.le:,}" if isinstance(m, Le) else f"and below {m.lt:,}" for m in metadata if isinstance(m, Le | Lt) and _bound(m) < BEYOND]
    if low and low[0].startswith("above") and high and high[0].startswith("to"):
        high[0] = f"and up {high[0]}"
    return "".join(f" {word}" for word in (*low[:1], *high[:1]))


def _bound(limit: Le | Lt) -> Any:
    return limit.le if isinstance(limit, Le) else limit.lt


def shown(value: object) -> str:
    """A value as one types it, shortened."""
    text = {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | NoneType) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
