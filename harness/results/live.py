"""What a run that is still running says of itself: lines of JSON that its processes append to live.jsonl in the run folder.

`tail -f` shows them, and who follows a run (W&B, a sweep that stops bad points) reads them there, whichever process wrote them.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

FILE = "live.jsonl"


def append(folder: Path, row: Mapping[str, object]) -> None:
    """Add a line. Several processes may: a line of this size is written in one piece."""
    data = (json.dumps(row) + "\n").encode()
    handle = os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


def rows_since(folder: Path, offset: int) -> tuple[list[dict], int]:
    """The lines after so many bytes, and where to go on. A line that is not whole yet, or damaged, is no line."""
    try:
        with open(folder / FILE, "rb") as file:
            file.seek(offset)
            data = file.read()
    except OSError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    found = []
    for line in whole.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(row)
    return found, offset + len(whole)
