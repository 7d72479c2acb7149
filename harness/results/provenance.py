"""Where and with what a run was made: commit, package versions, device."""

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

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "lpips", "hydra-core", "wandb", "numpy", "safetensors")


def provenance(device: "torch.device", plugins: Sequence[str] = ()) -> dict:
    """Where and with what a run was made. plugins: packages whose code may have been used."""
    import torch  # here, so that who only reads results need not wait for it

    def git(*arguments: str) -> str:
        call = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
        return call.stdout.strip()

    versions = {"python": platform.python_version()}
    for package in (*PACKAGES, *plugins):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_cpu_name()} ({torch.get_num_threads()} threads)"
    return {
        "git": {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))},
        "versions": versions,
        "device": name,
        "host": platform.platform(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        return match.group(1) if match else platform.processor()
    except OSError:
        return platform.processor() or "cpu"
