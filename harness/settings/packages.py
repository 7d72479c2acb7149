"""The four packages of this repository belong together: whose `metrics` is it that Python finds?"""

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

SITE = Path(__file__).resolve().parents[2]  # the checkout, or where pip put the wheel
PACKAGES = ("policies", "backbones", "metrics")


def check_packages() -> None:
    """Put our packages first on the import path where another folder of the same name comes before them; SystemExit where that does not help.

    `python -m harness` looks in the working folder first, where a project may have `metrics` of its own; a wheel of another project may hold one too.
    """
    if any(_found(name) != SITE / name for name in PACKAGES):
        sys.path.insert(0, str(SITE))
        importlib.invalidate_caches()
    for name in PACKAGES:
        found = _found(name)
        if found != SITE / name:
            raise SystemExit(
                f"error: the package {name!r} is {found or 'missing'}, and not {SITE / name}: another folder of that name comes first on Python's path. "
                "Use the command `worldkv`, or `python -P -m harness`, or run from another folder; two installed packages of one name need two environments"
            )


def _found(name: str) -> Path | None:
    """The folder of the package that Python finds, or has imported already."""
    spec = find_spec(name)
    return Path(next(iter(spec.submodule_search_locations or [""]))).resolve() if spec else None
