"""The README says what is true."""

import re

from harness.reporting.documents import BLOCK, render
from tests.conftest import CONF, ROOT

README = (ROOT / "README.md").read_text()
COMMANDS = ["pip install -e . && python harness/run.py policy=worldkv", "pip install -e '.[dev]' && pytest"]


def test_tables_are_generated():
    assert len(BLOCK.findall(README)) >= 4
    assert render(README) == README, "run: python harness/docs.py"


def test_the_two_commands_come_first():
    block = re.search(r"```\n(.*?)```", README, re.S)
    assert [line.split("   ")[0] for line in block.group(1).splitlines() if line.startswith("pip")] == COMMANDS
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text()


def test_named_files_and_options_exist():
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        assert path.startswith("http") or (ROOT / path).exists(), path
    for name in re.findall(r"policy=(\w+)", README):
        assert (CONF / "policy" / f"{name}.yaml").exists(), name
    for name in re.findall(r"\+experiment=(\w+)", README):
        assert (CONF / "experiment" / f"{name}.yaml").exists(), name
