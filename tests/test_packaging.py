"""What a wheel holds, and what becomes of a user's own `metrics` beside ours."""

import os
import shutil
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What pip would make of the wheel: its packages, and conf/ where pyproject.toml says."""
    site = tmp_path_factory.mktemp("site")
    unwanted = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for package in WHEEL["packages"]:
        shutil.copytree(ROOT / package, site / package, ignore=unwanted)
    for source, target in WHEEL["force-include"].items():
        shutil.copytree(ROOT / source, site / target)
    return site


def run(*command, cwd, site):
    return subprocess.run([sys.executable, *command], cwd=cwd, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, timeout=120)


def test_every_package_is_typed():
    assert all((ROOT / package / "py.typed").is_file() for package in WHEEL["packages"])


def test_a_folder_of_the_users_own_is_not_taken_for_ours(site, tmp_path):
    """`python -m` puts the working folder first, where `metrics` may be the user's: a run, and a job that it starts, take ours all the same."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "__init__.py").write_text("raise RuntimeError('the user\\'s own')\n")
    settings = ("policy=sliding", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", "progress=false", "videos=0", "world.trajectories=1")
    for more in (("run_dir=r",), ("-m", "seed=1", "hydra/launcher=submitit_local", "name=e")):
        out = run("-m", "harness", "run", *more, *settings, cwd=tmp_path, site=site)
        assert out.returncode == 0 and "Traceback" not in out.stderr, out.stdout + out.stderr
    assert len(list(tmp_path.rglob("results.json"))) == 2


def test_a_package_that_is_imported_already_is_named(site, tmp_path):
    """Of two installed packages of one name only one can be had: the answer says whose it is and what helps."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "__init__.py").write_text("")
    code = "import metrics; from harness.settings.packages import check_packages; check_packages()"
    out = run("-c", code, cwd=tmp_path, site=site)
    assert out.returncode == 1 and f"'metrics' is {tmp_path / 'metrics'}" in out.stderr and "two environments" in out.stderr


def test_the_remedies_that_it_names_work(site, tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "__init__.py").write_text("")
    command = tmp_path / "bin" / "worldkv"  # what pip writes for a console command: Python looks in its folder, not in the working one
    command.parent.mkdir()
    command.write_text("from harness.__main__ import main\nmain()\n")
    for way in (("-P", "-m", "harness"), (str(command),)):
        out = run(*way, "run", "--help", cwd=tmp_path, site=site)
        assert out.returncode == 0 and "one policy on the shipped world model" in out.stdout, out.stdout + out.stderr
