"""The four packages of this repository belong together: whose `metrics` is it that Python finds?"""

from importlib.util import find_spec
from pathlib import Path

SITE = Path(__file__).resolve().parents[2]  # the checkout, or where pip put the wheel
PACKAGES = ("policies", "backbones", "metrics")


def check_packages() -> None:
    """Nothing, or SystemExit where another folder of the same name comes first on the import path.

    `python -m harness` looks in the working folder first, and a wheel of another project may hold a package `metrics` too.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(next(iter(spec.submodule_search_locations or [""]))).resolve() if spec else None
        if found != SITE / name:
            raise SystemExit(
                f"error: the package {name!r} is {found or 'missing'}, and not {SITE / name}: another folder of that name comes first on Python's path. "
                "Use the command `worldkv`, or `python -P -m harness`, or run from another folder; two installed packages of one name need two environments"
            )
