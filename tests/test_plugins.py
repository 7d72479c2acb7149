"""Packages of somebody else's, installed by pip beside this checkout: their settings files and classes are used as ours are."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.evaluation.python import evaluate
from harness.playing.setup import Setup
from harness.settings.plugins import plugin_folders, with_plugins
from tests.commands import SWEEP, ended
from tests.conftest import ROOT

TINY = ("backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "progress=false", "videos=0", "threads=1")
CLASSES = '''
"""Somebody's own policy, world and metric."""
from dataclasses import dataclass

from harness.worlds.rooms_world import RoomsWorld
from metrics.frame import FrameMetric
from policies.sink_recent import SinkRecentPolicy


@dataclass
class Mine(SinkRecentPolicy):
    """Keeps what its author likes."""


class Lobby(RoomsWorld):
    pass


class Loudness(FrameMetric):
    name, version, higher_is_better = "loudness", "1", True

    def score(self, a, b):
        return (a - b).abs().flatten(1).mean(1)
'''
WORLD = """_target_: {package}.classes.Lobby
trajectories: 1
specs: [R60L60]
protocol: guided
split: test
size: [16, 24]
fov: 80.0
step: 0.12
degrees: 15.0
move_frames: 3
hold_frames: 3
min_gap: 6
overlap: 0.5
chunk_px: 3
"""


def wheel(folder: Path, package: str, declared: bool) -> Path:
    """A wheel as any build tool makes one. declared: with the entry point that makes it known without being named."""
    files = {
        f"{package}/__init__.py": "",
        f"{package}/classes.py": CLASSES,
        f"{package}/conf/policy/{package}_mine.yaml": f"_target_: {package}.classes.Mine\nsink: 3\nrecent: 6\n",
        f"{package}/conf/world/{package}_lobby.yaml": WORLD.format(package=package),
        f"{package}/conf/metric/{package}_loud.yaml": f"defaults: [tiny, _self_]\nloudness:\n  _target_: {package}.classes.Loudness\n",
    }
    info = f"{package}-0.1.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if declared:
        files[f"{info}/entry_points.txt"] = f"[worldkv.plugins]\n{package} = {package}\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    path = folder / f"{package}-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Two packages, installed: `declared` says that it is a plugin, `named` must be named."""
    folder = tmp_path_factory.mktemp("plugins")
    wheels = [str(wheel(folder, "declared", True)), str(wheel(folder, "named", False))]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder / "site"), *wheels]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder / "site"


@pytest.fixture
def installed(site, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)
    yield
    for name in [m for m in sys.modules if m.partition(".")[0] in ("declared", "named")]:
        del sys.modules[name]


def run(site: Path, cwd: Path, script: str, *arguments: str) -> tuple[int, str]:
    return ended(script, *arguments, cwd=cwd, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])})


def test_a_package_that_declares_itself_is_there_without_being_named(site, tmp_path):
    code, said = run(site, tmp_path, "run.py", "policy=declared_mine", "world=declared_lobby", "metric=declared_loud", TINY[0], *TINY[3:], "name=p")
    assert code == 0, said
    (results,) = (json.loads(p.read_text()) for p in (tmp_path / "outputs" / "p").glob("declared_mine-*/results.json"))
    assert results["run"]["policy"] == "declared_mine" and results["run"]["world"] == "declared_lobby"
    assert results["summary"]["quality/loudness_revisit"]["n"] == 1
    assert results["run"]["about_policy"] == "Keeps what its author likes."
    assert results["run"]["versions"]["declared"] == "0.1", "whose code it was"


def test_several_policies_of_a_named_package_are_compared(site, tmp_path):
    code, said = run(site, tmp_path, "run.py", "-m", "policy=sliding,named_mine", "plugins=[named]", *TINY, "name=q")
    assert code == 0 and "2 of 2 runs are finished" in said, said
    code, said = run(site, tmp_path, "run.py", "--help", "plugins=[named]")
    assert "declared_mine" in said and "named_mine" in said
    assert "named_mine" not in run(site, tmp_path, "run.py", "--help")[1]
    code, said = run(site, tmp_path, "run.py", "policy=named_mine", *TINY)
    assert code and "named_mine" in said and "Traceback" not in said


def test_a_sweep_has_points_of_a_plugin(site, tmp_path):
    file = tmp_path / "s.yaml"
    command = "command: ['${env}', '${interpreter}', '${program}', 'plugins=[named]', '${args_no_hyphens}']\n"
    file.write_text(f"program: harness/run.py\nmethod: grid\n{command}parameters:\n  policy: {{values: [named_mine]}}\n  policy.recent: {{values: [3, 6]}}\n")
    code, said = run(site, tmp_path, SWEEP, str(file), *TINY[:-3], "videos=0", "name=s")
    assert code == 0, said
    assert len(list((tmp_path / "outputs" / "s").glob("named_mine-*/results.json"))) == 2


def test_from_python_and_in_the_viewer(installed):
    run = evaluate("named_mine", *TINY, "plugins=[named]")
    assert run.label == "named_mine" and run["quality/psnr_revisit"] > 0
    assert "declared_mine" in Setup().options("policy") and "named_mine" not in Setup().options("policy")
    assert "named_mine" in Setup(("plugins=[named]",)).options("policy")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("plugins=[nowhere]", "no package 'nowhere'.*pip install"),
        ("plugins=nowhere", "no package 'nowhere'"),
        ("plugins=[3]", "names of Python packages"),
        ("plugins={a: b}", "names of Python packages"),
    ],
)
def test_what_is_no_plugin_is_said(given, said):
    with pytest.raises(ValueError, match=said):
        plugin_folders([given])


def test_a_search_path_of_the_users_own_stays(installed, tmp_path):
    (folder,) = plugin_folders([])
    arguments = with_plugins(["policy=full", f"hydra.searchpath=[file://{tmp_path}]"])
    assert arguments == ["policy=full", f"hydra.searchpath=['file://{tmp_path}', 'file://{folder}']"]
    assert with_plugins(arguments) == arguments, "given twice, it is there once"
