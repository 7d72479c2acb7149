"""Walk through the world model in the browser, under one to three policies side by side.

  python harness/play.py policy=worldkv,sliding                     rooms, the shipped model; opens at http://127.0.0.1:8765
  python harness/play.py policy=full,worldkv,sliding world=houses   three policies, a house of several rooms
  python harness/play.py policy=worldkv policy.compressor.ratio=0.1 any setting of the main job, for all panes
  python harness/play.py world=recorded world.folder=DIR            start from your own first image
  python harness/play.py start=3                                    another room of the world
  python harness/play.py open=outputs/play/NAME                     go on with a saved walk
  python harness/play.py host=0.0.0.0 port=9000                     reachable from other machines, with a token in the address
  python harness/play.py --headless keys.txt                        walk by a script and film the page, into keys.mp4
  python harness/play.py script=keys.txt film=walk.webp             the same into another file (.mp4, .gif or .webp)

Settings of the page itself: start (which of the world's trajectories gives the first image and pose), host, port, linger (seconds
that a walk outlives its last page), open, script, film, width (of the film, pixels), seconds (length of the film at most). A script
has keys chunk by chunk: W A S D left right wait, as in `right*3 W+left wait`.
All other settings: python harness/run.py --help
"""

import math
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

from harness.settings.command_line import CONF, check_overrides, understood
from harness.settings.entry_point import entry_point

LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_POLICIES, DEFAULT_BUDGET = "worldkv,sliding", "w18"


@dataclass(frozen=True)
class Asked:
    """Settings of the page. rest: those of the main job."""

    policy: str = DEFAULT_POLICIES
    budget: str = DEFAULT_BUDGET
    host: str = "127.0.0.1"
    port: int = 8765
    linger: float = 10.0
    start: int = 0
    open: str = ""
    script: str = ""
    film: str = ""
    width: int = 1280
    seconds: float = 60.0
    rest: tuple[str, ...] = ()

    @staticmethod
    def of(arguments: list[str]) -> "Asked":
        """Raises ValueError for what is no setting."""
        arguments = _headless(arguments)
        own = {f.name: f.type for f in fields(Asked) if f.name != "rest"}
        given: dict[str, str | int | float] = {}
        rest = []
        for argument in arguments:
            name, equals, value = argument.partition("=")
            if not equals:
                raise ValueError(f"cannot read {argument!r}; write settings as name=value (--help shows them)")
            if name not in own:
                rest.append(argument)
                continue
            kind = {"int": int, "float": float}.get(str(own[name]).removeprefix("<class '").removesuffix("'>"), str)
            try:
                given[name] = kind(value)
            except ValueError:
                raise ValueError(f"{name}={value} is no number; the default is {name}={getattr(Asked, name)}") from None
        asked = replace(Asked(), rest=tuple(understood(rest)), **given)  # pyright: ignore[reportArgumentType]
        if not 0 <= asked.port <= 65535:
            raise ValueError(f"port={asked.port}; use 1 to 65535, or 0 for any that is free")
        if not (0 <= asked.linger < math.inf and 0 < asked.seconds < math.inf) or not 320 <= asked.width <= 3840:
            raise ValueError(f"linger={asked.linger:g}, seconds={asked.seconds:g}, width={asked.width}; use linger from 0, seconds above 0, width 320 to 3840")
        if bool(asked.script) != bool(asked.film):
            raise ValueError("script and film go together: script=keys.txt film=walk.mp4")
        return asked


def _headless(arguments: list[str]) -> list[str]:
    """`--headless FILE` is a script and a film of its name. Raises ValueError without a file."""
    if "--headless" not in arguments:
        return arguments
    at = arguments.index("--headless")
    if at + 1 == len(arguments) or "=" in arguments[at + 1]:
        raise ValueError("--headless needs a file of keys, as in --headless keys.txt")
    file = Path(arguments[at + 1])
    film = [] if any(a.startswith("film=") for a in arguments) else [f"film={file.with_suffix('.mp4')}"]
    return [*arguments[:at], *arguments[at + 2 :], f"script={file}", *film]


@entry_point("walks that were saved are kept")
def main() -> None:
    """Entry point. Ends with status 1 for settings that cannot work, 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if status := _start(Asked.of(arguments)):
        raise SystemExit(status)


def _start(asked: Asked) -> int:
    policies = [p for p in asked.policy.split(",") if p]
    check_overrides(CONF, [*(f"policy={p}" for p in policies[:1]), f"budget={asked.budget}", *asked.rest])  # `policy.x` is a setting of the first one
    try:
        from harness.playing import film, serving
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn", "websockets"):
            raise
        raise ValueError(f"the page needs {error.name}: pip install -e '.[play]'") from None
    setup, choices = _walk(asked)
    if asked.film:
        return film.film(setup, choices, Path(asked.script), Path(asked.film), asked.width, asked.seconds, asked.open)
    return serving.serve(setup, choices, asked.host, asked.port, asked.linger, asked.open)


def _walk(asked: Asked):
    """What to walk with: as the settings say, or as a saved walk was."""
    from harness.playing.saving import choices_of, read_about
    from harness.playing.setup import Choice, Setup

    if not asked.open:
        policies = [p for p in asked.policy.split(",") if p]
        choices = [Choice(p, asked.budget) for p in policies]
        return Setup(asked.rest, asked.start, first=choices[0] if choices else None), choices
    about = read_about(Path(asked.open))
    if own := [f"{k}={v}" for k in ("policy", "budget", "start") if (v := getattr(asked, k)) != getattr(Asked, k)]:
        raise ValueError(f"open={asked.open} goes on with its own policies from its own start; leave out {' '.join(own)}")
    if asked.rest:
        raise ValueError(f"open={asked.open} brings its own settings ({' '.join(about['overrides']) or 'the defaults'}); leave out {' '.join(asked.rest)}")
    choices = choices_of(about)
    return Setup(tuple(about["overrides"]), about["index"], first=choices[0]), choices
