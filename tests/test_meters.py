"""What is free: the system's word, and a container's limit without what was merely read."""

import builtins
import io
import os
import subprocess
import sys
import time

import pytest
import torch

from harness.system import meters
from harness.system.devices import chosen_device


def test_a_containers_page_cache_is_free(tmp_path, monkeypatch):
    """Of 64 GiB 62 are used, 58 of them files that were read."""
    g = 2**30
    for name, text in (
        ("max", f"{64 * g}\n"),
        ("current", f"{62 * g}\n"),
        ("stat", f"anon {4 * g}\ninactive_file {50 * g}\nactive_file {8 * g}\nfile {58 * g}\n"),
    ):
        (tmp_path / f"memory.{name}").write_text(text)
    plain = builtins.open
    monkeypatch.setattr(builtins, "open", lambda f, *a, **k: io.StringIO(f"MemAvailable: {10**9} kB\n") if f == "/proc/meminfo" else plain(f, *a, **k))
    monkeypatch.setattr(meters, "CGROUP", str(tmp_path))
    assert meters.free_bytes(torch.device("cpu")) == 60 * g
    (tmp_path / "memory.max").write_text("max\n")
    assert meters.free_bytes(torch.device("cpu")) == 10**12 // 1000 * 1024


def test_waiting_for_a_core_is_seen():
    """Two processes on one core: each waits for about half of the time; alone it waits for little of it."""
    if not hasattr(os, "sched_setaffinity") or not os.path.exists("/proc/thread-self/schedstat"):
        pytest.skip("Linux tells how long a thread waited")
    spin = "import os; os.sched_setaffinity(0, {%d})\nprint('on', flush=True)\nwhile True: pass"
    mine = os.sched_getaffinity(0)
    core = min(mine)
    other = subprocess.Popen([sys.executable, "-c", spin % core], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert other.stdout.readline() == b"on\n"
        os.sched_setaffinity(0, {core})
        before, begin = meters.seconds_waited(), time.perf_counter()
        while time.perf_counter() - begin < 1.0:
            pass
        assert 0.2 < meters.seconds_waited() - before < 1.1
    finally:
        os.sched_setaffinity(0, mine)
        other.kill()
        other.wait()


def test_a_gpu_that_there_is_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="backbone.device=cuda, but PyTorch sees no GPU here; use cpu"):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="backbone.device=cuda:2, but PyTorch sees 2 GPUs here; use cuda:0 to cuda:1"):
        chosen_device("cuda:2")
    assert chosen_device("cuda:1") == torch.device("cuda:1") and chosen_device("cpu").type == "cpu"
