"""docs/notebook.ipynb runs from the first cell to the last, in a kernel of its own, with the tiny model in place of the shipped one."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.conftest import ROOT

FILE = ROOT / "docs" / "notebook.ipynb"
TINY = ["backbone=rooms_tiny", "world=rooms_tiny", "metric=tiny", "threads=1", "logger=none", "progress=false", "name=notebook"]


@pytest.fixture
def notebook():
    return nbformat.read(FILE, as_version=4)


def run(notebook, folder) -> None:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def test_the_notebook_runs_and_shows_what_it_promises(notebook, tmp_path):
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = f"settings = {TINY!r}"
    run(notebook, tmp_path)
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    tables = [o.data["text/html"] for o in shown if "text/html" in o.get("data", {})]
    assert len(tables) == 2 and all("<table>" in t for t in tables) and "EveryOther step=3" in tables[1]
    assert any("image/png" in o.get("data", {}) for o in shown), "a picture"
    assert len(list((tmp_path / "outputs" / "notebook").glob("*/results.json"))) == 3


def test_a_cell_that_fails_fails_the_test(notebook, tmp_path):
    notebook.cells = [nbformat.v4.new_code_cell("from harness import nothing")]
    with pytest.raises(CellExecutionError):
        run(notebook, tmp_path)


def test_what_is_stored_was_run(notebook):
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)) and any(cell.outputs for cell in notebook.cells if cell.cell_type == "code")
