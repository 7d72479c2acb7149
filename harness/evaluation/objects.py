"""Objects in place of settings: what a policy, backbone, world or metric made in Python would be called in a settings file.

A run folder is found again by the settings that decide its results, so an object needs settings too.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.datatypes import Geometry
from harness.snapshot.plain_values import encode

PLAIN = (type(None), bool, int, float, str)


def settings_of(thing: Any) -> dict[str, Any]:
    """The class as `_target_`, and what tells the object from others of its class.

    A dataclass (every policy is one): its fields. A metric: its name and version. Else: the attributes that are plain values, and a
    fingerprint of the others (tensors, modules, containers); cached properties, and attributes that the class names in `caches`, are left out.
    Raises ValueError, naming the attribute, for what has none.
    """
    cls = type(thing)
    found: dict[str, Any] = {"_target_": f"{cls.__module__}.{cls.__qualname__}"}
    if is_dataclass(thing):
        return found | {f.name: _field(getattr(thing, f.name), f"{cls.__name__}.{f.name}") for f in fields(thing) if f.init}
    if hasattr(thing, "version") and hasattr(thing, "name"):
        return found | {"name": thing.name, "version": thing.version}
    passing = {"user", *getattr(cls, "caches", ())}  # a backbone's session, and what is kept so as not to be computed again, are no settings
    values = {k: v for k, v in vars(thing).items() if k not in passing and not isinstance(getattr(cls, k, None), cached_property)}
    plain = {k: v for k, v in values.items() if _is_plain(v) and not k.startswith("_")}
    digest = hashlib.sha256()
    for name in sorted(values.keys() - plain.keys()):
        digest.update(f"{name}:{_fingerprint(values[name], f'{cls.__name__}.{name}')}\n".encode())
    return found | {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()} | {"fingerprint": digest.hexdigest()[:16]}


def label_of_object(thing: object) -> str:
    """What tables call it: the class, and the fields that differ from their defaults."""
    if not is_dataclass(thing):
        return type(thing).__name__
    changed = [f for f in fields(thing) if f.init and isinstance(value := getattr(thing, f.name), PLAIN) and value != f.default]
    return " ".join([type(thing).__name__, *(f"{f.name}={getattr(thing, f.name)}" for f in changed)])


def _is_plain(value: object) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, list | tuple) and all(isinstance(v, PLAIN) for v in value))


def _field(value: Any, name: str) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_field(v, f"{name}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(k): _field(v, f"{name}.{k}") for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return settings_of(value)
    return {"fingerprint": _fingerprint(value, name)}


def _fingerprint(value: Any, name: str) -> str:
    """16 hexadecimal digits of a value's content."""
    if isinstance(value, nn.Module):
        value = {"class": type(value).__qualname__, "state": dict(value.state_dict())}
    if is_dataclass(value) and not isinstance(value, type | Geometry):
        value = settings_of(value)
    if isinstance(value, Geometry | torch.dtype | torch.device | Path):
        value = str(value)
    tensors: dict[str, Tensor] = {}
    try:
        text = repr(encode(value, tensors, name))
    except ValueError:
        if isinstance(value, list | tuple | Mapping):  # of paths, objects, ...
            return _fingerprint(repr(_field(value, name)), name)
        raise ValueError(
            f"{name} is a {type(value).__module__}.{type(value).__qualname__}, so two objects of this class cannot be told apart; "
            "make the class a dataclass with plain fields, or give it by the name of a settings file"
        ) from None
    digest = hashlib.sha256(text.encode())
    for key, tensor in tensors.items():
        digest.update(f"{key}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
