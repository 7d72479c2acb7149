"""What is in the files that settings name: weights, a world's paths and pictures, the code of classes. As much as settings it decides a result, and unlike
settings it can change under the same name."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.results.ownership import CODE
from harness.settings.nested import flatten

EDGE = 2**20  # bytes at either end that stand for a file; a checkpoint has gigabytes


def weights_of(backbone: dict) -> dict[str, str]:
    """16 hexadecimal digits of the files that a backbone's settings name, by setting. Empty where its module does not say which these are
    (`weight_files`), or where they are missing, which the backbone itself tells."""
    module = import_module(str(backbone["_target_"]).rpartition(".")[0])
    if not hasattr(module, "weight_files"):
        return {}
    return {name: digest(path) for name, path in module.weight_files(backbone).items() if path.exists()}


def inputs_of(world: Mapping[str, Any]) -> dict[str, str]:
    """The same of the files and folders that a world's settings name, by setting: a folder of paths and pictures, lists of folders."""
    found = {}
    for name, value in flatten(dict(world)).items():
        texts = [x for x in (value if isinstance(value, list) else [value]) if isinstance(x, str)]
        paths = [p for text in texts if (name == "folder" or "/" in text) and (p := Path(text).expanduser()).exists()]
        if paths:
            found[f"world.{name}"] = hashlib.sha256("".join(map(digest, paths)).encode()).hexdigest()[:16]
    return found


def code_of(settings: Any) -> dict[str, str]:
    """The same of the modules whose classes the settings name (`_target_`), without comments and docstrings, by module."""
    found = {}
    for name in sorted({target.rpartition(".")[0] for target in _targets(settings)}):
        try:
            spec = find_spec(name)
            tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8")) if spec and spec.origin else None
        except (ImportError, ValueError, OSError, SyntaxError):
            continue
        if tree is not None:
            found[f"{CODE}{name}"] = hashlib.sha256(ast.dump(_bare(tree)).encode()).hexdigest()[:16]
    return found


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)


def _bare(tree: ast.Module) -> ast.Module:
    """Without docstrings."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
            and isinstance(body[0].value.value, str)
        ):
            body.pop(0)
    return tree


def digest(path: Path) -> str:
    """Of names, sizes and both ends of a file, or of all files below a folder."""
    found = hashlib.sha256()
    files = sorted(p for p in path.rglob("[!.]*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        found.update(f"{file.relative_to(path) if path.is_dir() else ''}:{size}\n".encode())
        with file.open("rb") as opened:
            found.update(opened.read(EDGE))
            opened.seek(max(0, size - EDGE))
            found.update(opened.read(EDGE))
    return found.hexdigest()[:16]
