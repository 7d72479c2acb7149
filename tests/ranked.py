"""Several processes that share one rollout, for tests: each calls the same function and returns what it found."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.commands import PRELOADED

PATIENCE = 3000.0  # seconds that the ranks have, all golden runs in one


def on_ranks(size: int, call: Callable[..., Any], *arguments: object) -> list[Any]:
    """What `call(*arguments)` returns in each of `size` processes, rank by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_rank, args=(folder, size, rank, call, arguments), daemon=True) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
        found = [Path(folder, f"result_{rank}.pt") for rank in range(size)]
        missing = [rank for rank in range(size) if not found[rank].exists()]
        for process in processes:
            process.kill()
        assert not missing, f"ranks {missing} returned nothing: exit codes {[p.exitcode for p in processes]}"
        return [torch.load(file, weights_only=False) for file in found]


def _rank(folder: str, size: int, rank: int, call: Callable[..., Any], arguments: tuple) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=size, rank=rank, timeout=timedelta(seconds=120))
    result = call(*arguments)
    torch.save(result, f"{folder}/part_{rank}.pt")
    os.replace(f"{folder}/part_{rank}.pt", f"{folder}/result_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
