"""One rollout over several processes (`backbone.parallel`): how many, where, and what those do that are not the first.

Rank 0 is an evaluation like any other. The others make the same rollouts with their share of the heads, and neither score nor write.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.backbone import Backbone
from harness.cache.stores import PackedStore
from harness.evaluation.checks import device_of
from harness.evaluation.probes import Probes
from harness.evaluation.rolling import ALIKE, Roller
from harness.policy import CachePolicy
from harness.rollout import Snapshot
from harness.settings.build import build
from harness.worlds.base import World

SILENCE = timedelta(minutes=20)  # that a rank waits for another, which may be reading its part of a checkpoint


@dataclass(frozen=True)
class Work:
    """Trajectories that are to be made, and where a store keeps files meanwhile."""

    indices: tuple[int, ...]
    bank: Path


def ranks_of(settings: dict) -> int:
    return int(settings["backbone"].get("parallel") or 1)


def tolerance(settings: dict) -> float | None:
    """By how much latents may differ from those of one process, which adds the same numbers in another order: the gate of the tests in float32, and
    unknown in bfloat16, which rounds the partial sums."""
    if ranks_of(settings) == 1:
        return 0.0
    return 5e-5 if settings["backbone"].get("dtype") == "float32" else None


def outer_rank(size: int) -> int | None:
    """This process's number among those that torchrun or Slurm started for one rollout; None where we start them ourselves."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):  # of srun: a batch script itself has no step
        if size > 1 and os.environ.get(world) == str(size) and rank in os.environ:
            return int(os.environ[rank])
    return None


def check_ranks(settings: dict, given: Mapping[str, Any]) -> None:
    """Raises ValueError for what ranks cannot do."""
    size = ranks_of(settings)
    if size == 1:
        return
    if settings["devices"] > 1:
        raise ValueError(f"backbone.parallel={size} shares one rollout, devices={settings['devices']} shares trajectories; use one of them")
    if any(settings["snapshot"][k] for k in ("save", "load")):
        raise ValueError(f"backbone.parallel={size}: a session over several ranks cannot be saved or opened; use snapshot.save=null, or backbone.parallel=1")
    if given:
        raise ValueError(f"backbone.parallel={size}: objects stay in the process that made them; use settings files (plugins=[mypkg])")
    cuda, cores = device_of(settings).type == "cuda", os.cpu_count() or 1
    most = torch.cuda.device_count() if cuda else 4 * cores
    if outer_rank(size) is None and size > most:
        have = f"{most} GPUs" if cuda else f"{cores} cores, which take up to {most} ranks"
        raise ValueError(f"backbone.parallel={size}: there are {have} here; use up to {most}, or start the ranks by torchrun or Slurm")


def place(settings: dict, rank: int) -> str:
    """The device of a rank. Alone, a rank has the one that was asked for (`cuda:1`)."""
    wanted = device_of(settings)
    if wanted.type != "cuda":
        return "cpu"
    if wanted.index is not None and ranks_of(settings) == 1:
        return str(wanted)
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", rank)) if outer_rank(ranks_of(settings)) is not None else rank
    return f"cuda:{local}"


def follow(settings: dict, packages: Sequence[str], rank: int) -> None:
    """What a rank other than 0 does: the same rollouts, whatever becomes of them. It has joined the others."""
    work = agreed(ranks_of(settings))
    if not work.indices:
        return
    world = build(settings["world"], "world", World, packages)
    store, policy = build(settings["store"], "store", PackedStore, packages), build(settings["policy"], "policy", CachePolicy, packages)
    backbone = build(settings["backbone"] | {"device": place(settings, rank)}, "backbone", Backbone, packages)
    roller = Roller(backbone, policy, store, world, settings["seed"], Snapshot(chunks=settings["snapshot"]["chunks"]), Probes(**settings["probes"]))
    store.settle(work.bank)
    try:
        for index in work.indices:
            with suppress(*ALIKE):  # rank 0 meets it too, and tells of it
                roller.roll(index)
    finally:
        store.close()


def agreed(size: int, work: Work | None = None) -> Work:
    """What is to be done, from rank 0, which knows it. Called by all ranks."""
    told: list[Any] = [work]
    if size > 1:
        dist.broadcast_object_list(told)
    return told[0]


def join(settings: dict, rank: int, folder: str | None) -> None:
    """Become one of the ranks. folder: where they find one another; None: torchrun's or Slurm's way."""
    size, cuda = ranks_of(settings), device_of(settings).type == "cuda"
    if cuda:
        torch.cuda.set_device(place(settings, rank))
    elif settings["threads"] is None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    if folder is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    elif "MASTER_ADDR" not in os.environ:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        slurm = SLURMEnvironment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = slurm.main_address, str(slurm.main_port)
    method = "env://" if folder is None else f"file://{folder}/store"
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", init_method=method, world_size=size, rank=rank, timeout=SILENCE)
