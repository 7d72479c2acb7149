"""Where every command begins and ends: mistakes in one line, signals obeyed, and an exit status that tells the truth.

0: all is done. 1: something failed, and the last line says what. 2: the command line cannot be read. 130: Ctrl-C. 143: SIGTERM.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

from harness.system.stopping import Stopped, stoppable

P = ParamSpec("P")
REMEDIES = {  # of what the operating system refuses, by error number
    errno.ENOSPC: "free some space, or choose another folder, and run the same command again",
    errno.EDQUOT: "the quota is used up: free some space, or choose another folder, and run the same command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "check who may read and write it, or choose another folder",
    errno.EPERM: "check who may read and write it, or choose another folder",
    errno.ENOENT: "check the name",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
CLEAN = ("HydraException", "OmegaConfBaseException", "OutOfMemoryError")  # of packages that take time to import, by name


def entry_point(afterwards: str) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Decorator of a `main`. afterwards: what is said after a signal, such as what the same command will do."""

    def decorate(body: Callable[P, None]) -> Callable[P, None]:
        @wraps(body)
        def main(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                with stoppable():
                    body(*args, **kwargs)
                    sys.stdout.flush()  # a pipe that is closed says so here, and not while Python ends
            except Stopped as stop:
                _leave(f"stopped by {stop}; {afterwards}", stop.status)
            except KeyboardInterrupt:
                _leave(f"stopped by Ctrl-C; {afterwards}", 130)
            except BrokenPipeError:  # whoever read us has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(141) from None
            except Exception as error:  # noqa: BLE001
                end(error)

        return main

    return decorate


def end(error: Exception) -> NoReturn:
    """End with status 1: a mistake in one line, a fault of the program with its traceback (also with HYDRA_FULL_ERROR=1)."""
    known = explained(error)
    if known is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
        _leave(f"error: {known or f'{type(error).__name__}: {error}; {_whose(error)}this is a fault of the program, please report it with the lines above'}", 1)
    _leave(f"error: {known}", 1)


def _whose(error: BaseException) -> str:
    """Where it was raised, of code that is not installed: a policy or a metric of one's own may lie in these folders too."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename and not f.filename.startswith("<")]
    where = frames[-1] if frames else None
    return f"raised in {where.filename}:{where.lineno} ({where.name}); if that is code of yours, look there, if not, " if where else ""


def usage(text: str) -> NoReturn:
    """End with status 2: the command line cannot be read."""
    _leave(text, 2)


def explained(error: BaseException) -> str | None:
    """What somebody did and can mend, in a line: settings, files, memory. None for what is a fault of the program."""
    if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:  # Hydra wraps what a constructor raised
        return explained(error.__cause__)
    if isinstance(error, OSError):
        return _of_system(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        remedy = "use smaller sizes, a smaller policy budget, shorter trajectories, store=tiered or backbone.dtype=bfloat16"
        return f"out of memory ({str(error) or 'host'}); {remedy}"
    if isinstance(error, ValueError | FloatingPointError) or {c.__name__ for c in type(error).__mro__} & set(CLEAN):
        return str(error).strip() or type(error).__name__
    return None


def _of_system(error: OSError) -> str:
    """Path and remedy, for what Python says as `[Errno 28] No space left on device: 'path'`. Errors that have a text of their own keep it."""
    if error.errno is None or error.strerror is None:
        return str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno, "")
    if error.filename is None:
        return error.strerror if "; " in error.strerror or not remedy else f"{error.strerror}; {remedy}"
    return f"{error.filename}: {error.strerror}{f'; {remedy}' if remedy else ''}"


def _leave(text: str, status: int) -> NoReturn:
    try:
        sys.stdout.flush()
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody listens, or the disk of a log is full: the status still tells
        pass
    raise SystemExit(status)
