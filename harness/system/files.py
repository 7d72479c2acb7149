"""Files that appear whole: written aside under a name of one's own, then moved into place. A reader, a kill, a full disk
or a second process that writes the same file never see or leave half of one."""

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any
from zlib import crc32

PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
TAKEN = (".failed", "_true", "_pairs")  # ends of the names of what lies beside a trajectory's record and video
LONGEST = 180  # characters: a file system takes 255, and suffixes and the names of files that are being written need some
LEFT_BEHIND = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini")
FREE_SPACE = "finished trajectories are kept, free some space and run the same command again"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A new name beside `path`, with its suffix, to write to; renamed to `path` afterwards, removed after an error."""
    temporary = _beside(path)
    temporary = temporary.with_name(temporary.name + path.suffix)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new empty folder beside `path` to fill; takes its place afterwards, and is removed after an error, when an older one stays.

    Folders cannot be exchanged at once: what a kill between the two renames leaves is put back by `put_back`.
    """
    temporary, old = _beside(path), _old(path)
    put_back(path)
    if path.parent.is_dir():
        remove_stale(path.parent, of=path.name)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.replace(old)
        try:
            temporary.replace(path)
        except OSError:
            put_back(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def put_back(path: Path) -> None:
    """Where a kill left the older of two folders aside and none in its place, it is in its place again."""
    if not path.exists() and _old(path).exists():
        _old(path).replace(path)


def _old(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def write_atomic(path: Path, text: str) -> None:
    """Write next to the target, flush to disk, rename: after a kill or a full disk the old file is still whole."""
    temporary = _beside(path)
    try:
        _write(temporary, text)
        temporary.replace(path)
    except OSError as error:
        raise _explained(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_once(path: Path, text: str) -> bool:
    """Like write_atomic, but a file that is there already stays: of several writers, on any machine, the first one wins.

    Returns whether this one did. A link, unlike a rename, fails where the name is taken.
    """
    temporary = _beside(path)
    try:
        _write(temporary, text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            temporary.replace(path)  # a file system without hard links
        return True
    except OSError as error:
        raise _explained(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes, remedy: str, flush: bool = False) -> None:
    """Write aside and rename. flush: to the device first, for what must outlive a power cut. Raises OSError with `remedy`."""
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.write(data)
            if flush:
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, f"could not write {path} ({len(data)} bytes): {error.strerror}; {remedy}") from error


def summed(content: dict) -> dict:
    """JSON content with its checksum as its last entry, `sum`."""
    return content | {"sum": _sum(content)}


def unsummed(content: Any) -> Any:
    """Content without its checksum. Raises ValueError where it is not that content's; content of a version that knew none passes."""
    if not isinstance(content, dict) or "sum" not in content:
        return content
    rest = {k: v for k, v in content.items() if k != "sum"}
    if content["sum"] != _sum(rest):
        raise ValueError("it is not what was written: its checksum is another one")
    return rest


def remove_stale(folder: Path, seconds: float = 3600, of: str = "") -> None:
    """Remove what processes that were killed had not finished writing, files and folders, if it is older than any write can take. of: only of
    this name, directly in the folder."""
    for path in list(folder.glob(f".{escape(of)}.*.partial*") if of else folder.rglob(".*.partial*")):
        try:
            if time.time() - path.stat().st_mtime > seconds:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        except OSError:  # another one was faster
            continue


def file_name(name: str) -> str:
    """A trajectory's name as that of a file: two names never share one.

    A plain name stays as it is. In any other one (signs that a file system or a URL may not take, a name that is hidden or too long, or that
    ends as files of a record's own do) what is not plain becomes `_`, and `~` with a hash of the name follows; no plain name has a `~`.
    """
    if PLAIN.fullmatch(name) and len(name) <= LONGEST and not name.endswith(TAKEN):
        return name
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:LONGEST].lstrip('.')}~{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def visible(path: Path, root: Path | None = None) -> bool:
    """Whether a file or folder is somebody's own: no hidden one, none that macOS, Windows or a disk station left (`._*`, `__MACOSX`, `@eaDir`).

    root: whose parents are not looked at; None: only the last part of `path` counts.
    """
    parts = path.relative_to(root).parts if root is not None else (path.name,)
    return not any(part.startswith(".") or part in LEFT_BEHIND for part in parts)


def folders_below(root: Path) -> Iterator[Path]:
    """`root` and every visible folder below it, sorted, links to folders too (pathlib's own walk passes them by from Python 3.11 on).

    A link that leads back to where it lies is not followed.
    """
    for path, folders, _ in os.walk(root, followlinks=True):
        here = Path(path)
        yield here
        above = [p.resolve() for p in (here, *here.parents) if p == root or root in p.parents]
        folders[:] = sorted(f for f in folders if visible(here / f) and not any(p.is_relative_to((here / f).resolve()) for p in above))


def _sum(content: dict) -> int:
    """Of the text that Python makes of it: JSON that it wrote reads and writes as the same text."""
    return crc32(json.dumps(content).encode())


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _explained(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"could not write {path}: {error.strerror}; {FREE_SPACE}")
