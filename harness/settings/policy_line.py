"""What a policy does, in a line: what its YAML says first, or else its class."""

import ast
import inspect
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml

from harness.settings.command_line import CONF


def policy_line(name: str, places: Sequence[Path] = (CONF,)) -> str:
    """The first comment of policy/NAME.yaml, or the first paragraph of its class's docstring, read and not imported. Empty where there is neither, as
    in a file that only takes others together.

    places: folders with settings, ours and those of plugins.
    """
    file = next((f for place in places if (f := place / "policy" / f"{name}.yaml").is_file()), None)
    if file is None:  # a config of the user's own folder, or of an older checkout
        return ""
    text = file.read_text()
    said = next((line for line in text.splitlines() if not line.startswith("# @package")), "")
    if said.startswith("# "):
        return said.removeprefix("# ")
    settings = yaml.safe_load(text)
    module, _, wanted = str(settings.get("_target_", "") if isinstance(settings, dict) else "").rpartition(".")
    try:
        source = find_spec(module) if module else None
    except ImportError:
        source = None
    if source is None or not source.origin:
        return ""
    classes = {n.name: n for n in ast.parse(Path(source.origin).read_text()).body if isinstance(n, ast.ClassDef)}
    docstring = ast.get_docstring(classes[wanted]) if wanted in classes else None
    return _first(docstring)


def line_of(policy: object) -> str:
    """The first paragraph of an object's class's own docstring."""
    return _first(type(policy).__doc__ if "__doc__" in vars(type(policy)) else None)


def _first(docstring: str | None) -> str:
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
