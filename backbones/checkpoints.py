"""Official checkpoints: where they come from, and how one fills a network that was built on the meta device.

Keys and shapes are compared before any data are read; then tensors move one at a time, so that a network of 18.5 B
parameters needs its own size in memory and one tensor more, and no second copy.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from backbones.pickled import read_pickled

log = logging.getLogger(__name__)

INDEX = "*.safetensors.index.json"
PICKLED = (".pth", ".pt", ".bin")
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")  # that torch.compile, FSDP and others put into names
PARALLEL = "module."  # that DataParallel and DeepSpeed put before all of them
LISTED = 8  # keys named in an error
Shape = tuple[int, ...]
Value = bool | int | float | str | tuple


class Parts:
    """What a module holds of each tensor of a checkpoint: here all of it. whole: the tensors' names and shapes, by a module on the meta device."""

    def __init__(self, whole: nn.Module) -> None:
        self.whole: dict[str, Tensor] = whole.state_dict(keep_vars=True)

    def index(self, name: str) -> tuple[slice, ...]:
        """Where in the checkpoint's tensor its part lies; () for all of it."""
        return ()

    def numel(self, name: str) -> int:
        """Numbers that it takes."""
        return self.whole[name].numel()

    def held(self, name: str, part: Tensor) -> Tensor:
        """What the module holds, from the part that was read."""
        return part


def load_into(
    module: nn.Module,
    path: Path,
    *,
    device: torch.device,
    dtype_of: Callable[[str], torch.dtype],
    prefix: str = "",
    rename: Callable[[str], str] = str,
    parts: Parts | None = None,
) -> None:
    """Replace every parameter and buffer of the module's state dict (built on the meta device) by the checkpoint's.

    path: a .safetensors or .pth/.pt/.bin file, or a folder with one .safetensors or an index of shards. prefix: cut off
    the keys where all of them carry it; rename: then turns a key into the module's name (default: as it is).
    dtype_of: the dtype for a name of the module; integers keep theirs. Parameters want no gradient, and those that were
    tied stay tied (a checkpoint may hold any of their names). What wrappers put into names is cut
    out. Buffers outside the state dict are left alone. parts: what the module holds of each tensor, if not all; nothing else is read.
    Raises FileNotFoundError for a missing file or shard. Raises ValueError, before any data are read, for a damaged file,
    a pickle with more than tensors, a key that comes twice, and keys or shapes that are not the module's.
    """
    held = {file: shapes_of(file) for file in files_of(path)}
    parts = parts or Parts(module)
    expected = parts.whole
    name_of = _names([key for shapes in held.values() for key in shapes], prefix, rename, expected)
    found: dict[str, Shape] = {}
    for file, shapes in held.items():
        for key, shape in shapes.items():
            name = name_of[key]
            if name in found:
                raise ValueError(f"{file} holds {key}, but {name} has been found before in {path}; delete what is left of another download")
            found[name] = shape
    tied: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        tied.setdefault(id(tensor), []).append(name)
    compare(f"{path} does not fit {type(module).__name__}", found, expected, tied)
    for file, shapes in held.items():
        for key, tensor in tensors_of(file, {key: parts.index(name_of[key]) for key in shapes}):
            name = name_of[key]
            dtype = dtype_of(name) if tensor.is_floating_point() else tensor.dtype
            tensor = parts.held(name, tensor.to(device, dtype, copy=True))  # never a view of the file, which may change
            if isinstance(expected[name], nn.Parameter):
                tensor = nn.Parameter(tensor, requires_grad=False)
            for alias in tied[id(expected[name])]:
                put(module, alias, tensor)


def put(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Replace a parameter or buffer of a module by name."""
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, tensor)


def _names(keys: Sequence[str], prefix: str, rename: Callable[[str], str], expected: Collection[str]) -> dict[str, str]:
    """The module's name of every key of a checkpoint."""
    plain = {key: ".".join(part for part in key.split(".") if part not in WRAPPERS) for key in keys}
    parallel = "" if any(name.startswith(PARALLEL) for name in expected) else PARALLEL
    for cut in (parallel, prefix, parallel):  # either may stand before the other
        if all(name.startswith(cut) for name in plain.values()):
            plain = {key: name.removeprefix(cut) for key, name in plain.items()}
    return {key: rename(name) for key, name in plain.items()}


def compare(title: str, found: Mapping[str, Shape], expected: Mapping[str, Tensor], tied: Mapping[int, list[str]]) -> None:
    differing = [name for name in found if name in expected and found[name] != tuple(expected[name].shape)]
    problems = {
        "missing": [name for name, tensor in expected.items() if not any(alias in found for alias in tied[id(tensor)])],
        "unexpected": [name for name in found if name not in expected],
        "misshaped": [f"{name} (found {list(found[name])}, expected {list(expected[name].shape)})" for name in differing],
    }
    if any(problems.values()):
        counts = ", ".join(f"{len(keys)} {kind}" for kind, keys in problems.items())
        lists = [f"  {kind}: {', '.join(keys[:LISTED])}{', ...' * (len(keys) > LISTED)}" for kind, keys in problems.items() if keys]
        raise ValueError("\n".join([f"{title}: {counts} keys; is it the checkpoint of this model and variant?", *lists]))


def files_of(path: Path) -> list[Path]:
    """The files that make up the checkpoint at a path."""
    if path.is_file():
        if path.suffix not in (".safetensors", *PICKLED):
            raise ValueError(f"{path} is no checkpoint; give a folder or a file that ends in .safetensors, {', '.join(PICKLED)}")
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}")
    indexes, files = (sorted(p for p in path.glob(pattern) if not p.name.startswith(".")) for pattern in (INDEX, "*.safetensors"))
    if len(indexes) == 1:
        return _shards(indexes[0])
    if indexes or len(files) > 1:
        raise ValueError(f"{path} holds several checkpoints ({', '.join(p.name for p in indexes or files)}); name the file to load")
    if not files:
        raise FileNotFoundError(f"no checkpoint in {path}: neither {INDEX} nor one .safetensors file")
    return files


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is damaged (no weight_map: {error}); download it again") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{index} names {len(names)} shards, {len(missing)} of them are missing: {', '.join(missing)}; download them")
    return [index.parent / name for name in names]


def shapes_of(file: Path) -> dict[str, Shape]:
    """Keys and shapes of a file, without its data."""
    if file.suffix != ".safetensors":
        return {key: tuple(tensor.shape) for key, tensor in read_pickled(file).items()}
    try:
        with safe_open(file, "pt") as opened:
            return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); download it again") from error


def tensors_of(file: Path, indices: Mapping[str, tuple[slice, ...]]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file, on the CPU, one at a time: these parts of them."""
    if file.suffix != ".safetensors":
        held = read_pickled(file)
        yield from ((key, held[key][index]) for key, index in indices.items())
        return
    for key, index in indices.items():  # opened anew (3 ms) for each: pages of a mapped file count as memory in use until it is closed
        with safe_open(file, "pt") as opened:
            yield key, opened.get_slice(key)[index] if index else opened.get_tensor(key)


def read_config(path: Path, defaults: Mapping[str, Value], fixed: Collection[str] = ()) -> dict[str, Value]:
    """`defaults`, with what the config.json of a checkpoint (its folder, or a file in it) says of the same keys.

    The file may be missing or stale: published ones lack keys or name another model's sizes. A key that it lacks keeps
    its default, and so does one of `fixed` (values that are certain) that it contradicts; either logs a warning.
    Raises ValueError for a file that is damaged or a value of another type than the default's.
    """
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        log.info("no %s; sizes are those of the model's reference code", file)
        return dict(defaults)
    try:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(file.read_text()).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error}); download it again, or delete it to use the defaults") from error
    config = {key: given[key] for key in defaults if given.get(key) is not None}
    lacking = [key for key in defaults if key not in config]
    if lacking:
        log.warning("%s lacks %s", file, ", ".join(f"{key} (taken as {defaults[key]})" for key in lacking))
    stale = [key for key in config if key in fixed and config[key] != defaults[key]]
    if stale:
        log.warning("%s is stale: %s", file, ", ".join(f"{key} is {config[key]}, but this model's is {defaults[key]}" for key in stale))
    config = {key: defaults[key] if key in stale or key in lacking else config[key] for key in defaults}
    for key, value in config.items():
        if type(value) is not type(defaults[key]) and (type(value), type(defaults[key])) != (int, float):
            raise ValueError(f"{file}: {key}={value!r} should be like {defaults[key]!r}; correct it, or delete the file to use the defaults")
    return config


def files_at(folder: str) -> Callable[[Mapping[str, Any]], dict[str, Path]]:
    """A backbone's `weight_files`: the checkpoint that its settings name, by setting (folder: where weights=null looks); random weights have none."""
    return lambda settings: {} if settings.get("weights") == "random" else {"weights": Path(settings.get("weights") or folder)}
