"""What a run keeps of one trajectory: one file each, in the run folder's `trajectories/`."""

import json
import logging
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from harness.results.older import completed_record
from harness.results.shapes import check_record
from harness.system.files import unsummed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is kept of one trajectory. values: its columns. error: why it failed, else empty. camera: x, z and heading of
    every video frame (folders written before the report existed have none). probes: a row a recall probe, where there were any.
    no_pairs: why there are no scored revisit pairs, where there are none. unaudited: what an audit could not replace pages by, and why."""

    name: str
    values: dict[str, float]
    pairs: list[dict[str, float]] = field(default_factory=list)
    chunks: list[dict[str, float | str]] = field(default_factory=list)
    noise: str = ""
    error: str = ""
    camera: list[list[float]] = field(default_factory=list)
    probes: list[dict[str, float]] = field(default_factory=list)
    no_pairs: str = ""
    unaudited: dict[str, str] = field(default_factory=dict)


def sound(record: Record) -> Record:
    """The record, or, where a metric gave what is no number, the failure that says so: NaN cannot be read back, nor averaged."""
    try:
        check_record(asdict(record))
    except ValueError as error:
        return Record(record.name, {}, error=f"{error}: see the metric that gave it")
    return record


@cache
def say_once(text: str) -> None:
    """A warning, once: files are read again and again."""
    log.warning(text)


def read_record(file: Path) -> Record | None:
    """A file's record; None where there is none that can be read."""
    try:
        record = unsummed(json.loads(file.read_text()))
        check_record(record)
        return Record(**completed_record(record))
    except OSError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        say_once(f"{file} is damaged ({error}): the trajectory counts as not run")
        return None
