"""What a policy does, in a line: what its YAML says first, or else its class."""

import ast
import inspect
from pathlib import Path

import yaml

from harness.settings.command_line import CONF, ROOT


def policy_line(name: str) -> str:
    """The first comment of conf/policy/NAME.yaml, or the first paragraph of its class's docstring, read and not imported. Empty where there is neither."""
    file = CONF / "policy" / f"{name}.yaml"
    if not file.is_file():  # a config of the user's own folder, or of an older checkout
        return ""
    text = file.read_text()
    if text.startswith("# "):
        return text.splitlines()[0].removeprefix("# ")
    module, _, wanted = yaml.safe_load(text)["_target_"].rpartition(".")
    source = ROOT / Path(*module.split(".")).with_suffix(".py")
    if not source.is_file():
        return ""
    classes = {n.name: n for n in ast.parse(source.read_text()).body if isinstance(n, ast.ClassDef)}
    docstring = ast.get_docstring(classes[wanted]) if wanted in classes else None
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())
