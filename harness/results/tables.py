"""Tables and arrays of a run folder."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from harness.system.files import write_atomic


def write_csv(path: Path, rows: Iterable[dict]) -> None:
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue())


def arrays(file: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(file) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        again = f"delete it and {file.with_suffix('.json').name} beside it, and run the same command again"
        raise ValueError(f"{file} is damaged ({error}); {again}") from error
