"""The W&B workspace and report: what is asked of the server (a stand-in), and what is said where there is no login."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from tests.wandb_stand_in import StandIn


def dashboard(*arguments: str, cwd, url: str = "http://127.0.0.1:9", key: str = "") -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"WANDB_BASE_URL": url, "HOME": str(cwd)}
    environment |= {"WANDB_API_KEY": key, "WANDB_ERROR_REPORTING": "false"} if key else {}
    line = [sys.executable, str(ROOT / "harness" / "dashboard.py"), *arguments]
    return subprocess.run(line, cwd=cwd, env=environment, text=True, capture_output=True, timeout=120, check=False)


def found(tree: object, kind: str) -> list:
    """All values of a key, anywhere in a specification."""
    if isinstance(tree, dict):
        return [v for k, v in tree.items() if k == kind] + [x for v in tree.values() for x in found(v, kind)]
    return [x for v in tree for x in found(v, kind)] if isinstance(tree, list) else []


def test_a_workspace_and_a_report_are_saved(tmp_path):
    server = StandIn()
    done = dashboard("budget_ratio", cwd=tmp_path, url=server.url, key="0" * 40)
    server.close()
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["workspace", "report"]
    saved = {v["type"]: v for v in server.views}
    assert set(saved) == {"project-view", "runs"}
    for view in saved.values():
        assert (view["entityName"], view["projectName"], view["displayName"]) == ("e", "worldkv-harness", "budget_ratio")
        spec = json.loads(view["spec"])
        kinds = found(spec, "viewType")
        assert kinds.count("Scatter Plot") == 9 and kinds.count("Run History Line Plot") == 5 and kinds.count("Media Browser") == 4, kinds
        assert {"Parallel Coordinates Plot", "Parameter Importance", "Run Comparer"} <= set(kinds)
        text = json.dumps(spec)
        settings = ("setting/policy_retrieved", "setting/policy_compressor_ratio")
        for key in (*settings, "quality/psnr_revisit", "quality/lpips_revisit", "cost/stored_bytes", "cost/bank_bytes", "cost/fps", "video/rollout_0"):
            assert key in text, key
        filters = json.dumps(found(spec, "filters"))
        assert "group" in filters and "budget_ratio" in filters, "only this experiment's runs"


def test_what_is_panelled_is_what_runs_log(tmp_path):
    """The keys of the panels are keys of the curves and summaries that a run is mirrored with."""
    from harness.reporting.curves import means
    from harness.tracking.workspace import CURVES, columns
    from metrics.cost import held

    seconds = {f"seconds_{p}": 0.1 for p in ("plan", "assemble", "passes", "commit", "decode")}
    bank = {"bank_bytes_gpu": 1, "bank_bytes_cpu": 1, "bank_bytes_disk": 0}
    numbers = bank | dict.fromkeys(("frames_px", "attended_rows", "peak_bytes", "window_bytes", "bytes_moved", "unreachable_frames"), 1)
    numbers |= {"scratch_bytes": 1, "state_bytes": 1}
    row = seconds | numbers | held(SimpleNamespace(**numbers)) | {"forced": False, "start": 3, "retrieved": "0 1", "attended": "0 1 2"}
    (point,) = means([[row]])
    assert set(CURVES) <= set(point) and point["cost/bank_bytes"] == 2 and point["cost/stored_bytes"] == 5 and point["policy/retrieved_frames"] == 2
    assert {"quality/psnr_revisit", "quality/lpips_revisit", "cost/stored_bytes"} <= {c.key for c in columns("no such experiment")}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["e"], "error: a dashboard is kept by W&B and needs a login there: run `wandb login`"),
        (["e", "entty=x"], "error: there is no setting entty"),
        (["e", "sweep=none.yaml"], "error: sweep=none.yaml is no file"),
        (["e", "only=graph"], "error: only=graph: use workspace or report"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, expected):
    done = dashboard(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(expected), done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_down_is_said(tmp_path):
    done = dashboard("e", cwd=tmp_path, key="0" * 40)
    assert done.returncode == 1 and "cannot be used now" in done.stderr and "Traceback" not in done.stderr
    assert "EXPERIMENT" in dashboard("--help", cwd=tmp_path).stdout
