"""What a page may ask for: JSON objects whose `do` names one of these. Everything else is refused, with what would have been right."""

import json
from collections.abc import Callable
from dataclasses import dataclass

from harness.playing.camera import KEYS
from harness.playing.setup import Choice

LARGEST = 4096  # characters of a message


@dataclass(frozen=True)
class Keys:
    """The keys that are down now. at: the page's time, in milliseconds."""

    down: frozenset[str]
    at: float | None = None


@dataclass(frozen=True)
class Chunk:
    """One chunk with these keys, for scripts."""

    keys: frozenset[str]


@dataclass(frozen=True)
class Begin:
    """Anew from the start."""


@dataclass(frozen=True)
class Choose:
    """Another policy in a pane."""

    pane: int
    choice: Choice


@dataclass(frozen=True)
class Drop:
    pane: int


@dataclass(frozen=True)
class Remember:
    """A mark here."""


@dataclass(frozen=True)
class Back:
    mark: int


@dataclass(frozen=True)
class Forget:
    mark: int


@dataclass(frozen=True)
class Save:
    name: str


@dataclass(frozen=True)
class Open:
    name: str


@dataclass(frozen=True)
class Take:
    """This page walks from now on, and the other one watches."""


@dataclass(frozen=True)
class Leave:
    """Nobody watches any more."""


@dataclass(frozen=True)
class Describe:
    """Tell all of the walk to one page."""

    tell: Callable[[dict], None]


Command = Keys | Chunk | Begin | Choose | Drop | Remember | Back | Forget | Save | Open | Take | Leave | Describe


def read(text: str) -> Command:
    """A page's message. Raises ValueError that says what is wrong with it."""
    if len(text) > LARGEST:
        raise ValueError(f"a message of {len(text)} characters; messages have up to {LARGEST}")
    try:
        message = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("a message that is no JSON; send an object with `do`") from None
    if not isinstance(message, dict):
        raise ValueError("a message that is no object; send one with `do`")
    match message.get("do"):
        case "keys":
            at = message.get("at")
            return Keys(_keys(message), float(at) if isinstance(at, int | float) and abs(at) < 1e15 else None)
        case "chunk":
            return Chunk(_keys(message))
        case "begin":
            return Begin()
        case "choose":
            ratio = message.get("ratio")
            if ratio is not None and (isinstance(ratio, bool) or not isinstance(ratio, int | float) or not abs(ratio) < 1e15):
                raise ValueError("ratio is no number; use a share above 0 and up to 1")
            return Choose(_index(message, "pane"), Choice(_text(message, "policy"), _text(message, "budget"), None if ratio is None else float(ratio)))
        case "drop":
            return Drop(_index(message, "pane"))
        case "remember":
            return Remember()
        case "back":
            return Back(_index(message, "mark"))
        case "forget":
            return Forget(_index(message, "mark"))
        case "save":
            return Save(_text(message, "name"))
        case "open":
            return Open(_text(message, "name"))
        case "take":
            return Take()
    raise ValueError(f"do={str(message.get('do'))[:40]!r} is unknown; use keys, chunk, begin, choose, drop, remember, back, forget, save, open or take")


def _keys(message: dict) -> frozenset[str]:
    down = message.get("keys")
    if not isinstance(down, list) or not all(isinstance(k, str) for k in down) or set(down) - set(KEYS):
        raise ValueError(f"keys={str(down)[:60]} is no list of keys; they are {', '.join(KEYS)}")
    return frozenset(down)


def _index(message: dict, name: str) -> int:
    value = message.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name}={str(value)[:40]} is no number from 0 on")
    return value


def _text(message: dict, name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str) or len(value) > 100:
        raise ValueError(f"{name}={str(value)[:40]} is no text of up to 100 characters")
    return value
