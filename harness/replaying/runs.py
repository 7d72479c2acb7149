"""Jobs to run folders: trajectories one after the other, each under every policy, and a table at the end."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from harness.policy import CachePolicy
from harness.replaying.command import Job
from harness.replaying.recorded import Content, noise, recorded, sizes
from harness.replaying.replay import Task, refuse, replay
from harness.reporting.terminal import comparison, console
from harness.results.identity import config_hash
from harness.results.provenance import provenance
from harness.results.record import Record
from harness.results.run_folder import RunFolder
from harness.settings.build import build
from harness.settings.command_line import CONF
from harness.settings.plugins import plugin_folders
from harness.settings.policy_line import policy_line
from harness.system.files import write_atomic
from harness.worlds.base import World, check_names
from harness.worlds.poses import top_view
from metrics.replay import COLUMNS

BY = "no model (poses alone)"
VERSION = "1"  # of the columns: changes whenever a value would


def run(jobs: Sequence[Job], packages: Sequence[str]) -> None:
    """Replay all of them and print the comparison. Raises ValueError for settings that cannot work, before anything is replayed where that can be known."""
    torch.set_num_threads(jobs[0].own["threads"])
    policies = [build(job.settings["policy"], "policy", CachePolicy, packages) for job in jobs]
    for job, policy in zip(jobs, policies, strict=True):
        refuse(policy, f"policy={job.label}", sizes(job.own["chunk"], job.own["stride"], job.own["tokens"]))
    records: dict[int, list[Record]] = {i: [] for i in range(len(jobs))}
    for group in _groups(jobs):
        world = build(jobs[group[0]].settings["world"], "world", World, packages)
        check_names(world.names)
        for index, name in enumerate(world.names):
            task = _task(world, index, jobs[group[0]].own)
            for i in group:
                try:
                    values = replay(task, policies[i])
                except ValueError as error:
                    hint = "; a replay has content where recorded=FOLDER gives it" if "without latents" in str(error) and task.content.latents is None else ""
                    raise ValueError(f"policy={jobs[i].label}: {error}{hint}") from error
                path = sha256(np.round(task.path.c2w.double().numpy(), 4).tobytes()).hexdigest()[:16]
                records[i].append(Record(name, values, noise=f"path {path}", camera=top_view(task.path.c2w)))
            print(f"[{index + 1}/{len(world.names)}] {name}: {task.total} chunks under {len(group)} policies", file=sys.stderr, flush=True)
    places = (CONF, *plugin_folders([f"plugins=[{','.join(jobs[0].own['plugins'])}]"]))
    out, last = console(), [_write(job, records[i], places) for i, job in enumerate(jobs)]
    for path in {path.parent: path for path in last}.values():
        out.print(comparison(path.parent, path, out.width), highlight=False)
        out.print(f"results: {path.parent}", markup=False, highlight=False, soft_wrap=True)


def _groups(jobs: Sequence[Job]) -> list[list[int]]:
    """Jobs that share trajectories, so that what these show is looked at once."""
    groups: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
        groups.setdefault(_comparable(job), []).append(i)
    return list(groups.values())


def _comparable(job: Job) -> str:
    return config_hash({"world": job.settings["world"], **_looks(job)})


def _looks(job: Job) -> dict:
    """The settings that decide what is compared, besides the world's."""
    return {k: job.own[k] for k in ("sink", "recent", "scored", "chunk", "stride", "tokens", "recorded")}


def _task(world: World, index: int, own: dict) -> Task:
    path = world.trajectory(index)
    content: Content = noise(sizes(own["chunk"], own["stride"], own["tokens"])) if own["recorded"] is None else recorded(Path(own["recorded"]), path)
    task = Task(path, content, world.ground(index), own["sink"], own["recent"], own["scored"])
    if task.total < 2:
        raise ValueError(f"{path.name}: {len(path.c2w)} video frames are no two chunks of {own['chunk']} latent frames of {own['stride']} video frames")
    return task


def _write(job: Job, records: Sequence[Record], places: Sequence[Path]) -> Path:
    """The run folder of a job. Replaying takes seconds, so an older one is written anew."""
    config = {"policy": job.settings["policy"], "backbone": {"replay": _looks(job)}, "world": job.settings["world"], "store": {}, "metric": {}, "seed": 0}
    folder = RunFolder(Path("outputs") / str(job.own["name"]) / f"{job.choices['policy']}-{config_hash(config)}")
    folder.clear()
    folder.create()
    write_atomic(folder.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    for record in records:
        folder.write(record)
    about = {
        "label": job.label, "policy": job.choices["policy"], "world": job.choices["world"], "store": "none", "backbone": BY,
        "protocol": "", "seed": 0, "comparable": _comparable(job), "metrics": {"replay": VERSION}, "about_policy": policy_line(job.choices["policy"], places),
        "config": config, **provenance(torch.device("cpu")),
    }  # fmt: skip
    folder.finish(about, [r.name for r in records], None, [asdict(c) for c in COLUMNS])
    return folder.path
