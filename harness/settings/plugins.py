"""Packages outside this repository with policies, backbones, worlds, metrics or codecs of their own.

Such a package has a folder `conf/` laid out as ours: `conf/policy/mine.yaml` makes `policy=mine`. It is found by its name
(`plugins=[mypkg]`), or without being named when it declares itself in its pyproject.toml:

[project.entry-points."worldkv.plugins"]
mypkg = "mypkg"
"""

import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

GROUP = "worldkv.plugins"


def plugins_of(arguments: Sequence[str]) -> list[str]:
    """Names of the packages: those that declare themselves, then those of `plugins=[...]`."""
    return list(dict.fromkeys([*_declared(tuple(sys.path)), *_named(arguments)]))


@cache
def _declared(path: tuple[str, ...]) -> list[str]:
    """Packages on Python's path that declare themselves. Looked up once: it reads a file of every package that is installed, and is asked ten times a run."""
    return [entry.value for entry in entry_points(group=GROUP)]


def plugin_folders(arguments: Sequence[str]) -> list[Path]:
    """The `conf` folders of the plugins. Raises ValueError for a package that is not installed."""
    return [folder for name in plugins_of(arguments) if (folder := _folder(name)) is not None]


def with_plugins(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the plugins' folders on Hydra's search path. Raises ValueError as `plugin_folders`."""
    folders = [f"file://{folder}" for folder in plugin_folders(arguments)]
    if not folders:
        return list(arguments)
    own = [a for a in arguments if a.startswith("hydra.searchpath=")]
    wanted = [p for a in own for p in _parsed(a) or [] if p not in folders]
    quoted = ", ".join(f"'{path}'" for path in [*wanted, *folders])  # a path may hold characters that Hydra's grammar reads
    return [*(a for a in arguments if a not in own), f"hydra.searchpath=[{quoted}]"]


def only_with_settings(arguments: Sequence[str]) -> bool:
    """Whether all packages that are named were made to be plugins, and are not just any module of this machine."""
    return all(_folder(name) is not None for name in _named(arguments))


def _named(arguments: Sequence[str]) -> list[str]:
    given = [a for a in arguments if a.startswith("plugins=")]
    if not given:
        return []
    value = _parsed(given[-1])
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{given[-1]}: give the names of Python packages, as in plugins=[mypkg]")
    return names


def _parsed(argument: str) -> Any:
    try:
        value: Any = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return None  # Hydra itself says what is wrong with it
    return [getattr(v, "text", v) for v in value] if isinstance(value, list) else getattr(value, "text", value)


def _folder(name: str) -> Path | None:
    """None for a package without a folder `conf/`: its classes may be named by `_target_` all the same."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ValueError(f"plugins: there is no package {name!r}; install it (pip install -e ITS_FOLDER), or put the folder that holds it on PYTHONPATH")
    for place in spec.submodule_search_locations or []:
        if (folder := Path(place).resolve() / "conf").is_dir():
            return folder
    return None
