"""What is in the files of weights: as much as settings it decides a result, and unlike settings it can change under the same name."""

import hashlib
from importlib import import_module
from pathlib import Path

EDGE = 2**20  # bytes at either end that stand for a file; a checkpoint has gigabytes


def weights_of(backbone: dict) -> dict[str, str]:
    """16 hexadecimal digits of the files that a backbone's settings name, by setting. Empty where its module does not say which these are
    (`weight_files`), or where they are missing, which the backbone itself tells."""
    module = import_module(str(backbone["_target_"]).rpartition(".")[0])
    if not hasattr(module, "weight_files"):
        return {}
    return {name: digest(path) for name, path in module.weight_files(backbone).items() if path.exists()}


def digest(path: Path) -> str:
    """Of names, sizes and both ends of a file, or of all files below a folder."""
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        size = file.stat().st_size
        found.update(f"{file.relative_to(path) if path.is_dir() else ''}:{size}\n".encode())
        with file.open("rb") as opened:
            found.update(opened.read(EDGE))
            opened.seek(max(0, size - EDGE))
            found.update(opened.read(EDGE))
    return found.hexdigest()[:16]
