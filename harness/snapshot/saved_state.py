"""What is saved of a session, what it must look like before anything of it is put to use, and how it is put back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.kv_cache import KVCache
from harness.datatypes import Geometry, Plan
from harness.outcome import ChunkStats
from harness.policy import CachePolicy
from harness.snapshot.plain_values import restore, state_of
from harness.system.frame_buffer import FrameBuffer
from harness.trajectory import Trajectory


class Savable(Protocol):
    """What of a session is saved."""

    backbone: Backbone
    policy: CachePolicy
    cache: KVCache
    path: Trajectory
    seed: int
    forced: Tensor
    done: int
    noise: str
    coming: Plan | None
    frames: FrameBuffer
    latents: FrameBuffer
    stats: list[ChunkStats]


KINDS: dict[str, type | tuple[type, ...]] = {
    "path": Trajectory, "seed": int, "forced": Tensor, "done": int, "noise": str, "rows": dict, "window": dict, "policy": dict,
    "coming": (Plan, type(None)), "backbone": dict, "frames": Tensor, "latents": Tensor, "stats": list,
}  # fmt: skip


def check_state(state: Mapping[str, Any], g: Geometry) -> None:
    """Names, types, shapes, dtypes and finiteness, and that all parts tell of the same chunks. Raises ValueError."""
    if state.keys() != KINDS.keys():
        raise ValueError(f"its parts are {', '.join(state) or 'none'}")
    for name, kind in KINDS.items():
        if not isinstance(state[name], kind) or isinstance(state[name], bool):
            raise ValueError(f"{name} is a {type(state[name]).__name__}")
    done = state["done"]
    if done < 1:
        raise ValueError(f"done={done} chunks")
    frames, px = done * g.chunk, g.frames_px(done * g.chunk)
    path: Trajectory = state["path"]
    shapes = {
        "latents": (state["latents"], (frames, None, None)),
        "frames": (state["frames"], (px, 3, None, None)),
        "path.c2w": (path.c2w, (px, 4, 4)),
        "path.intrinsics": (path.intrinsics, (px, 4)),
        "path.actions": (path.actions, (px, 6)),
        "path.images": (path.images, (None, 3, None, None)),
    }
    for name, (tensor, shape) in shapes.items():
        if not isinstance(tensor, Tensor) or tensor.dim() != len(shape) or any(n is not None and n != m for n, m in zip(shape, tensor.shape, strict=True)):
            raise ValueError(f"{name} is no tensor of {' x '.join('any' if n is None else str(n) for n in shape)}, as {done} chunks have it")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has numbers that are not finite")
    if not isinstance(path.name, str) or not all(isinstance(s, ChunkStats) for s in state["stats"]) or len(state["stats"]) != done:
        raise ValueError(f"its statistics are not those of {done} chunks")
    if state["forced"].numel() and (state["forced"].dim() != 3 or not bool(torch.isfinite(state["forced"]).all())):
        raise ValueError("forced has no latents, or numbers that are not finite")


def state_of_session(session: Savable) -> dict[str, Any]:
    """All that the next chunk depends on, but for the bank's pages, and what came out so far: the parts in `KINDS`. The path ends with what was
    made. Raises ValueError for a policy or a backbone whose state cannot be saved."""
    path, px = session.path, session.backbone.geometry.frames_px(session.done * session.backbone.geometry.chunk)
    return {
        "path": replace(path, c2w=path.c2w[:px], intrinsics=path.intrinsics[:px], actions=path.actions[:px], pairs=(), reference=None, overlap=None),
        "seed": session.seed,
        "forced": session.forced,
        "done": session.done,
        "noise": session.noise,
        "rows": session.cache.bank.row_table,
        "window": session.cache.window.state(),
        "policy": state_of(session.policy, "policy"),
        "coming": session.coming,
        "backbone": session.backbone.state(),
        "frames": session.frames.made,
        "latents": session.latents.made,
        "stats": session.stats,
    }


def check_savable(session: Savable) -> None:
    """Raises ValueError where bank or policy now hold what cannot be saved; copies nothing, so that it may be asked after every chunk."""
    _ = session.cache.bank.row_table
    state_of(session.policy, "policy")


def put_back(session: Savable, state: dict[str, Any]) -> None:
    """Into a session that has just begun, with policy and backbone of the same settings, and whose bank has its pages again."""
    session.cache.window.restore(state["window"])
    restore(session.policy, state["policy"])
    session.backbone.restore(state["backbone"])
    session.frames.add(state["frames"])
    session.latents.add(state["latents"])
    session.stats, session.noise, session.done, session.coming = state["stats"], state["noise"], state["done"], state["coming"]
