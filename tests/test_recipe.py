"""AGENTS.md's recipe for a policy, followed to the letter in a copy of the repository: three files, and everything works."""

import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

RECIPE = (ROOT / "AGENTS.md").read_text().split("## Add a policy")[1].split("\n## ")[0]
CODE = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(*command, cwd):
    return subprocess.run([sys.executable, *command], cwd=cwd, env=CODE | {"PYTHONPATH": str(cwd)}, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy in which the recipe's blocks stand where the recipe says."""
    copy = tmp_path_factory.mktemp("recipe") / "checkout"
    unwanted = shutil.ignore_patterns(".git", "outputs", "wandb", "site", "__pycache__", "golden", ".*_cache", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=unwanted)
    steps = re.findall(r"^\d\. (.*?)(?=^\d\. |^State)", RECIPE, re.S | re.M)
    files = []
    for step in steps:
        target = copy / re.search(r"`([\w./]+\.(?:py|yaml))`", step).group(1)
        block = textwrap.dedent(re.search(r"    ```\w+\n(.*?)    ```", step, re.S).group(1))
        if target.exists():
            text = target.read_text()
            name = re.search(r"A row in `(\w+)`", step).group(1)
            at = text.index("\n]", text.index(f"{name} = ["))
            block = text[:at] + "\n" + textwrap.indent(block.rstrip(), "    ") + text[at:]
        target.write_text(block)
        files.append(str(target.relative_to(copy)))
    return copy, files


def test_it_touches_three_files(checkout):
    copy, files = checkout
    assert files == ["policies/every_other.py", "conf/policy/every_other.yaml", "tests/test_policies.py"]
    assert "every_other" not in (ROOT / "tests" / "test_policies.py").read_text()


def test_the_matrix_the_configs_and_the_imports_take_it(checkout):
    copy, _ = checkout
    tests = ("tests/test_policies.py", "tests/test_configs.py", "tests/test_imports.py")
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "every_other or matrix_names or every_yaml or short", cwd=copy)
    assert out.returncode == 0 and "6 passed" in out.stdout, out.stdout + out.stderr


def test_the_docs_and_the_main_job_take_it(checkout):
    copy, _ = checkout
    assert run("harness/docs.py", cwd=copy).returncode == 0
    assert "| [`every_other`](every_other.md) | Attend to every `step`-th frame" in (copy / "docs" / "methods" / "index.md").read_text()
    assert "class `EveryOtherPolicy`" in (copy / "docs" / "methods" / "every_other.md").read_text()
    out = run("harness/run.py", "policy=every_other", "policy.step=3", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", cwd=copy)
    assert out.returncode == 0, out.stdout + out.stderr
    assert list((copy / "outputs").glob("*/every_other-*/results.json"))
    wrong = run("harness/run.py", "policy=every_other", "policy.step=0", "backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "logger=none", cwd=copy)
    assert wrong.returncode != 0 and "policy.step=0: use a whole number from 1" in wrong.stdout + wrong.stderr
