"""Where and with what a run was made: commit, package versions, device."""

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

UNKNOWN = "unknown"
FPS_INCLUDES = "plan, assembly, denoising and clean passes, commit, decode; generated chunks only; no warm-up excluded"
SITE = Path(__file__).resolve().parents[2]  # the checkout, or where pip put the wheel
PATIENCE = 20  # seconds for git to answer, on a slow network drive
PACKAGES = ("worldkv-harness", "torch", "torchvision", "lightning", "torchmetrics", "lpips", "hydra-core", "wandb", "numpy", "safetensors")


def provenance(device: "torch.device", plugins: Sequence[str] = ()) -> dict:
    """Where and with what a run was made. plugins: packages whose code may have been used."""
    import torch  # here, so that who only reads results need not wait for it

    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *plugins):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu_name()} ({torch.get_num_threads()} threads)"
    return {
        "git": commit(),
        "versions": versions,
        "device": name,
        "host": platform.platform(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit(site: Path = SITE) -> dict[str, str | bool | None]:
    """The commit of the checkout at `site` and whether its files differ from it; unknown and None where there is no git, where git does not
    answer (another user's clone), or where `site` is no checkout: a wheel inside of another project is none of that project's commits."""
    unknown: dict[str, str | bool | None] = {"commit": UNKNOWN, "dirty": None}
    top = _git(site, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != site.resolve() or _git(site, "ls-files", "--error-unmatch", "harness/results/provenance.py") is None:
        return unknown
    head, changes = _git(site, "rev-parse", "HEAD"), _git(site, "status", "--porcelain", "--untracked-files=no")
    return unknown if head is None or changes is None else {"commit": head, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a folder; None where it fails or is missing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_DIR") and k not in ("GIT_WORK_TREE", "GIT_INDEX_FILE")}
    try:
        call = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=folder, check=False, env=environment, timeout=PATIENCE)
    except (OSError, subprocess.SubprocessError):
        return None
    return call.stdout.strip() if call.returncode == 0 else None


def _cpu_name() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        return match.group(1) if match else platform.processor()
    except (OSError, UnicodeDecodeError):
        return platform.processor() or "cpu"
