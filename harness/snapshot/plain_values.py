"""Nested plain values as JSON and tensors: what a saved snapshot is written in. Reading it runs nobody's code."""

from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.cache.page import Page
from harness.cache.page_files import alone
from harness.datatypes import KV, Chunk, Geometry, Plan, Site
from harness.outcome import ChunkStats
from harness.system.ranks import Ranks
from harness.trajectory import Trajectory

PLAIN = (type(None), bool, int, float, str)
SEQUENCES = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
WORDS: dict[str, Any] = {t.__name__: t for t in (KV, Chunk, ChunkStats, Page, Plan, Site, Trajectory)}  # the project's own frozen words may be in a state


def encode(value: Any, tensors: dict[str, Tensor], path: str) -> object:
    """JSON for `value`; its tensors go to `tensors` under names that begin with `path`. Raises ValueError, naming the path,
    for anything that is neither plain nor a tensor."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if isinstance(value, Tensor):
        tensors[path] = alone(value).clone()
        return {"tensor": path, "host": value.device.type == "cpu"}
    if kind is np.ndarray:
        tensors[path] = torch.from_numpy(value).clone()
        return {"array": path}
    if kind in SEQUENCES.values():
        return {kind.__name__: [encode(x, tensors, f"{path}.{i}") for i, x in enumerate(sorted(value) if kind in (set, frozenset) else value)]}
    if kind is dict:
        pairs = [(encode(k, tensors, f"{path}.{i}k"), encode(v, tensors, f"{path}.{i}")) for i, (k, v) in enumerate(value.items())]
        return {"dict": pairs}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind is torch.Generator:
        tensors[path] = value.get_state()
        return {"generator": path}
    if kind.__name__ in WORDS and kind is WORDS[kind.__name__]:
        return {"word": kind.__name__, "fields": {f.name: encode(getattr(value, f.name), tensors, f"{path}.{f.name}") for f in fields(value)}}
    raise ValueError(f"a snapshot cannot hold {path}, a {kind.__module__}.{kind.__qualname__}; keep tensors, numbers, text and containers of them there")


def decode(node: Any, tensors: dict[str, Tensor], device: torch.device) -> Any:
    """The value that `encode` was given; tensors that were not in host memory come to `device`."""
    if not isinstance(node, dict):
        return node
    if not node:
        raise ValueError("a value of no kind")
    kind, content = next(iter(node.items()))
    if kind == "tensor":
        return tensors[content] if node["host"] else tensors[content].to(device)
    if kind == "array":
        return tensors[content].numpy()
    if kind in SEQUENCES:
        return SEQUENCES[kind](decode(x, tensors, device) for x in content)
    if kind == "dict":
        return {decode(k, tensors, device): decode(v, tensors, device) for k, v in content}
    if kind == "range":
        return range(*content)
    if kind == "generator":
        generator = torch.Generator()
        generator.set_state(tensors[content])
        return generator
    return WORDS[content](**{name: decode(x, tensors, device) for name, x in node["fields"].items()})


def state_of(thing: Any, path: str) -> dict:
    """What an object and the parts it is composed of remember since `reset`: every attribute but the hyper-parameters, which
    are the fields that its constructor takes, and the geometry and its ranks, which `reset` is told."""
    parameters = {f.name for f in fields(thing) if f.init} if is_dataclass(thing) else set()
    state = {}
    for name, value in vars(thing).items():
        if _is_part(value):
            state[name] = state_of(value, f"{path}.{name}")
        elif name in parameters:
            if any(map(_is_part, value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ())):
                raise ValueError(f"a snapshot cannot hold {path}.{name}, several parts in one field; give each a field of its own")
        elif not isinstance(value, Geometry | Ranks):
            state[name] = value
    return state


def restore(thing: object, state: dict) -> None:
    """Put a state back into an object of the same settings that was just reset."""
    for name, value in state.items():
        part = vars(thing).get(name)
        if _is_part(part):
            restore(part, value)
        else:
            object.__setattr__(thing, name, value)


def _is_part(value: Any) -> bool:
    """Selectors, compressors, placements and inner policies: dataclasses that change."""
    return is_dataclass(value) and not isinstance(value, type) and not type(value).__dataclass_params__.frozen  # pyright: ignore
