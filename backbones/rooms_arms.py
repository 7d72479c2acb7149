"""Arms of the `rooms` backbone: the network trained on for one kind of memory. A file holds what that changed, beside the base's weights."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from backbones.rooms_geometry import GeometryMemory
from backbones.rooms_memory import Memory
from backbones.rooms_recurrent import RecurrentMemory
from harness.system.files import write_bytes

SUFFIX = ".safetensors"


def _nothing(config: dict) -> Memory:
    return Memory()


def _recurrent(config: dict) -> Memory:
    net = config["network"]
    return RecurrentMemory(net["layers"], net["heads"], net["width"] // net["heads"])


def _geometry(config: dict, true_depth: bool = False) -> Memory:
    return GeometryMemory(config["codec"]["channels"], config["network"]["width"], tuple(config["grid"]), true_depth=true_depth)


ARMS: dict[str, Callable[[dict], Memory]] = {
    "control": _nothing,
    "retrieved": _nothing,
    "compressed": _nothing,
    "recurrent": _recurrent,
    "geometry": _geometry,
    "oracle_geometry": lambda config: _geometry(config, true_depth=True),
}
WEIGHTS_OF = {"oracle_geometry": "geometry"}  # arms that have no weights of their own: the trained one with the world's depth in place of its own
TRAINED = tuple(arm for arm in ARMS if arm not in WEIGHTS_OF)


def memory_of(arm: str, config: dict) -> Memory:
    """The memory of an arm, untrained. config: the base's. Raises ValueError for an arm that there is not."""
    if arm not in ARMS:
        raise ValueError(f"backbone.arm={arm}: the rooms backbone has no such arm; use {', '.join(ARMS)}, or a file that harness/train.py wrote")
    return ARMS[arm](config)


def arm_file(arm: str, base: Path) -> tuple[str, Path]:
    """The name of an arm and its file. arm: a name, whose file lies beside the base's, or a file, whose name ends in `NAME.safetensors`.

    Raises ValueError for a file that is called otherwise.
    """
    if not arm.endswith(SUFFIX):
        return arm, base.with_name(file_name(WEIGHTS_OF.get(arm, arm), base))
    name = next((a for a in sorted(ARMS, key=len, reverse=True) if Path(arm).stem.endswith(a)), None)
    if name is None:
        raise ValueError(f"backbone.arm={arm}: the file's name says nothing of its arm; it ends in one of {', '.join(f'_{a}{SUFFIX}' for a in ARMS)}")
    return name, Path(arm)


def file_name(arm: str, base: Path) -> str:
    return f"{base.stem}_{arm}{SUFFIX}"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of a base's weights, as its file holds them (float16)."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        half = x.half() if x.is_floating_point() else x
        digest.update(f"{name}{tuple(x.shape)}".encode())
        digest.update(half.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_arm(path: Path, about: dict[str, Any], base: Mapping[str, Tensor], network: Mapping[str, Tensor], memory: Memory) -> None:
    """Write an arm in float16: the network's differences to the base's (which lose less than the weights themselves would) and the
    memory's weights. about: `arm`, `steps`, `seed`, `base_steps`; the base's fingerprint is added."""
    changed = {f"network.{k}": x.detach().cpu().float() - base[f"network.{k}"].float() for k, x in network.items()}
    own = {f"memory.{k}": x.detach().cpu().float() for k, x in memory.state_dict().items()}
    tensors = {k: x.half().contiguous() for k, x in (changed | own).items()}
    metadata = {"arm": json.dumps(about | {"base": fingerprint(base)})}
    write_bytes(path, save(tensors, metadata), "free some space and run the same command again", flush=True)


def load_arm(arm: str, base: Path, config: dict, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], Memory]:
    """The arm's name, the weights of base and arm together, and the memory. base, config, tensors: of the base.

    Raises FileNotFoundError, with the command that makes it, where there is no such arm; ValueError for a file that is damaged or of another base.
    """
    name, path = arm_file(arm, base)
    memory, trained = memory_of(name, config), WEIGHTS_OF.get(name, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"{base.name} has no weights of the arm {trained} ({path}); train them: python harness/train.py arm={trained}, then give backbone.arm=FILE"
        )
    try:
        with safe_open(path, "pt") as file:
            stored = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118  (not a dict)
            about = json.loads(file.metadata()["arm"])
        theirs, mine = (about["arm"], about["base"]), (trained, fingerprint(tensors))
        memory.load_state_dict({k.removeprefix("memory."): x for k, x in stored.items() if k.startswith("memory.")})
        changed = {k: x for k, x in stored.items() if k.startswith("network.")}
        whole = {k: x + changed.pop(k) if k in changed else x for k, x in tensors.items()}
    except (SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or no arm of {base.name} ({error}); train it again: python harness/train.py arm={trained}") from error
    if theirs != mine or changed:
        found = f"{path} is the arm {theirs[0]} of the base {theirs[1]}, wanted is {mine[0]} of {mine[1]}"
        raise ValueError(f"{found} ({base}); give backbone.weights=FILE of its base, or train: python harness/train.py arm={trained} start={base}")
    return name, whole, memory
