"""Imports point one way (ARCHITECTURE.md, module map)."""

import ast

import pytest

from tests.conftest import ROOT

OURS = ("harness", "policies", "backbones", "metrics")
# entry points may import anything
ENTRY = {"harness.run", "harness.train", "harness.bench", "harness.sweep", "harness.report", "harness.dashboard"}
ALLOWED = {  # module prefix -> prefixes of ours that it may import
    "harness.types": (),
    "harness.page": (),
    "harness.slots": (),
    "harness.attention": (),
    "harness.codecs": ("harness.page",),
    "harness.kmeans": ("harness.codecs",),
    "harness.pages": ("harness.codecs", "harness.files"),
    "harness.stores": ("harness.page", "harness.codecs"),
    "harness.disk": ("harness.codecs", "harness.pages", "harness.stores"),
    "harness.tiers": ("harness.codecs", "harness.disk", "harness.stores"),
    "harness.bank": ("harness.types", "harness.page", "harness.codecs", "harness.stores"),
    "harness.policy": ("harness.types", "harness.attention", "harness.bank", "harness.codecs"),
    "harness.context": ("harness.types", "harness.page", "harness.slots", "harness.attention", "harness.bank", "harness.policy", "harness.stores"),
    "harness.backbone": ("harness.types",),
    "harness.timing": ("harness",),
    "harness.sweeping": ("harness",),
    "harness.again": ("harness.types", "harness.backbone", "harness.bank", "harness.context", "harness.policy"),
    "harness.gauges": (),
    "harness.session": ("harness.types", "harness.backbone", "harness.bank", "harness.context", "harness.policy"),
    "harness.tree": ("harness.types", "harness.page", "harness.pages"),
    "harness.memory": ("harness.types", "harness.codecs", "harness.files", "harness.flat", "harness.pages", "harness.session", "harness.tree"),
    "harness.rollout": (
        *("harness.types", "harness.backbone", "harness.bank", "harness.context", "harness.policy", "harness.stores"),
        *("harness.again", "harness.gauges", "harness.memory", "harness.session"),
    ),
    "harness.worlds": ("harness.types", "harness.worlds"),
    "harness.results": ("harness.files",),
    "harness.files": (),
    "harness.media": ("harness.types", "harness.files"),
    "harness.table": ("harness.results",),
    "harness.flat": (),
    "harness.cli": ("harness.flat",),
    "harness.reporting": ("harness.cli", "harness.flat", "harness.files", "harness.reporting", "harness.results", "harness.table"),
    "harness.pictures": ("harness.media", "harness.results", "harness.table"),
    "harness.multirun": ("harness.cli", "harness.files", "harness.pictures", "harness.results", "harness.table"),
    "harness.endurance": ("harness.media",),
    "harness.doctables": ("harness.table",),
    "harness.docs": ("harness.doctables", "harness.endurance", "harness.files", "harness.media", "harness.results", "harness.table"),
    "harness.tracking": ("harness.results",),
    "harness.runner": ("harness", "metrics"),
    "harness.callbacks": ("harness",),
    "harness.evaluate": ("harness", "metrics"),
    "harness.training": ("harness", "backbones", "policies.full", "metrics.drift", "metrics.frame"),
    "policies": ("harness.types", "harness.page", "harness.codecs", "harness.policy", "harness.attention", "harness.bank", "harness.worlds.poses", "policies"),
    "backbones": ("harness.types", "harness.attention", "harness.backbone", "harness.worlds.poses", "backbones"),
    "metrics": ("harness.types", "metrics"),
}
ONLY_IN = {
    "lightning": ("harness.runner", "harness.callbacks", "harness.training", "harness.evaluate", "harness.train"),
    "wandb": ("harness.tracking", "harness.dashboard"),
    "hydra": ("harness.run", "harness.sweep", "harness.sweeping", "harness.bench", "harness.train", "harness.evaluate", "harness.cli", "harness.multirun"),
    "omegaconf": ("harness.run", "harness.sweep", "harness.sweeping", "harness.bench", "harness.train", "harness.evaluate", "harness.cli", "harness.multirun"),
}


def under(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def modules():
    for package in OURS:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, file


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize(("name", "file"), list(modules()), ids=[m for m, _ in modules()])
def test_imports_point_one_way(name, file):
    rules = [rule for rule in ALLOWED if under(name, rule)]
    for imported in imports(file):
        for library, places in ONLY_IN.items():
            if under(imported, library):
                assert any(under(name, place) for place in places), f"{name} imports {library}"
        if name in ENTRY or not any(under(imported, package) for package in OURS):
            continue
        assert rules or name in OURS, f"{name} is not on the module map: add it to ARCHITECTURE.md and here"
        allowed = ALLOWED[max(rules, key=len)] if rules else ()
        assert any(under(imported, prefix) for prefix in allowed), f"{name} must not import {imported}"


def test_policies_are_short():
    for file in (ROOT / "policies").rglob("*.py"):
        assert len(file.read_text().splitlines()) < 120, f"{file} is too long for a policy: compose"
