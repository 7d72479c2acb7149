"""Imports point one way (ARCHITECTURE.md, module map)."""

import ast

import pytest

from tests.conftest import ROOT

OURS = ("harness", "policies", "backbones", "metrics")
# entry points: arguments in, a call, an exit status
ENTRY = ("run", "sweep", "score", "train", "calibrate", "bench", "replay", "report", "play", "dashboard", "docs", "__main__")
WORDS = ("harness.datatypes", "harness.trajectory", "harness.outcome")
LOW = (*WORDS, "harness.system", "harness.settings.ranges")  # what everything may use
LOOP = ("harness.policy", "harness.backbone", "harness.turns", "harness.session", "harness.cache", "harness.snapshot", "harness.worlds")
SHOWN = ("harness.results", "harness.settings", "harness.reporting")
ALLOWED = {  # a module or a room -> what of ours it may import besides itself
    "harness.trajectory": (),
    "harness.outcome": (),
    "harness.datatypes": ("harness.trajectory", "harness.system.ranks"),
    "harness.system": (),
    "harness.settings": ("harness.system",),
    "harness.worlds": LOW,
    "harness.backbone": ("harness.datatypes", "harness.trajectory"),
    "harness.cache": (*LOW, "harness.backbone"),
    "harness.policy": ("harness.datatypes", "harness.cache"),
    "harness.passes": ("harness.datatypes", "harness.backbone", "harness.cache"),
    "harness.turns": ("harness.trajectory", "harness.backbone"),
    "harness.session": (*LOW, "harness.policy", "harness.backbone", "harness.turns", "harness.passes", "harness.cache", "harness.snapshot", "harness.worlds"),
    "harness.snapshot": (*LOW, "harness.backbone", "harness.policy", "harness.cache", "harness.settings.nested", "harness.worlds.chunks"),
    "harness.rollout": (*LOW, *LOOP),
    "harness.results": ("harness.system", "metrics.column"),
    "harness.reporting": (*LOW, "harness.results", "harness.settings", "metrics"),
    "harness.tracking": (*LOW, "harness.results", "harness.settings", "harness.reporting", "metrics.column"),
    "harness.evaluation": (*LOW, *LOOP, *SHOWN, "harness.rollout", "harness.tracking", "metrics"),
    "harness.scoring": (*LOW, *SHOWN, "harness.worlds", "metrics"),
    "harness.sweeping": (*LOW, *SHOWN, "harness.evaluation", "metrics.column"),
    "harness.benchmark": (*LOW, *LOOP, *SHOWN, "harness.rollout"),
    "harness.replaying": (*LOW, *LOOP, *SHOWN, "metrics"),
    "harness.playing": (*LOW, *LOOP, *SHOWN, "harness.evaluation.runner", "metrics"),
    "harness.training": ("harness", "backbones", "policies", "metrics"),
    "policies": ("harness.datatypes", "harness.system.ranks", "harness.settings.ranges", "harness.policy", "harness.cache", "harness.worlds.poses"),
    "backbones": (*LOW, "harness.backbone", "harness.cache.attention", "harness.worlds.poses"),
    "metrics": (*WORDS, "harness.settings.ranges"),
}
HYDRA = (
    "harness.settings", "harness.evaluation", "harness.scoring", "harness.sweeping", "harness.benchmark", "harness.replaying", "harness.playing",
    "harness.training",
)  # fmt: skip
ONLY_IN = {
    "lightning": ("harness.evaluation", "harness.training"),
    "wandb": ("harness.tracking",),
    "hydra": HYDRA,
    "omegaconf": HYDRA,
    "pydantic": ("harness.settings.check",),
    "hydra.utils": ("harness.settings.build",),  # nothing is built that was not checked
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
    if name in OURS or name.removeprefix("harness.") in ENTRY:
        return
    rules = [rule for rule in ALLOWED if under(name, rule)]
    assert rules, f"{name} is in no room of the module map: add it to ARCHITECTURE.md and here"
    rule = max(rules, key=len)
    for imported in imports(file):
        for library, places in ONLY_IN.items():
            if under(imported, library):
                assert any(under(name, place) for place in places), f"{name} imports {library}"
        if any(under(imported, package) for package in OURS):
            assert any(under(imported, prefix) for prefix in (rule, *ALLOWED[rule])), f"{name} must not import {imported}"


def test_entry_points_are_thin():
    for name in ENTRY:
        assert len((ROOT / "harness" / f"{name}.py").read_text().splitlines()) < 40, f"harness/{name}.py: arguments in, a call, an exit status"


def test_policies_are_short():
    for file in (ROOT / "policies").rglob("*.py"):
        assert len(file.read_text().splitlines()) < 120, f"{file} is too long for a policy: compose"
