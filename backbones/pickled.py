"""State dicts of .pth, .pt and .bin files: read without running what a pickle may hold."""

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor

NESTED = ("state_dict", "model", "generator_ema", "generator")  # where trainers put the weights of a pickled checkpoint; of the last two the average
LISTED = 8  # keys named in an error


def read_pickled(file: Path) -> dict[str, Tensor]:
    """A pickled state dict whose data stay in the file until they are used; runs no code of the pickle."""
    with file.open("rb") as opened:
        mapped = zipfile.is_zipfile(opened)  # files of before torch 1.6 are no archives and cannot be mapped
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except UnpicklingError as error:
        raise ValueError(f"{file} was refused: it is damaged or holds more than tensors{_reason(error.__context__ or error)}; download it again") from None
    except Exception as error:  # by where the damage lies: OSError, RuntimeError, EOFError, IndexError, struct.error, ...
        raise ValueError(f"{file} is damaged{_reason(error)}; download it again") from None
    for key in NESTED:
        if isinstance(held, dict) and isinstance(held.get(key), dict):
            held = held[key]
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        there = f"; it has {', '.join(map(str, list(held)[:LISTED]))}" if isinstance(held, dict) else ""
        raise ValueError(f"{file} holds no state dict (names and tensors), neither at its top nor in {' or '.join(NESTED)}{there}")
    return held


def _reason(error: BaseException) -> str:
    """What torch found, without its advice to trust the file: to run a pickle's code is what reading tensors alone avoids."""
    text = str(error)
    if refused := re.search(r"GLOBAL (\S+)", text):
        return f" (it would run {refused[1]})"
    first = re.split(r"(?<=[.:])\s|\n", text.strip())[0].rstrip(".:")
    advice = re.search(r"weights_only|safe_globals|allowlist|trust|torch\.(jit\.)?load", first)
    return f" ({type(error).__name__ if advice or not first else first})"
