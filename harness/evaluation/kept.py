"""What the runs of one command have in common, made once: a trajectory, its given latents, its probes, the autoencoder's round trip of its views.

None of it depends on the policy, the budget or the seed. On the houses of the bench it is a quarter of the time of a run.
"""

import json
from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from harness.results.ownership import CODE
from harness.trajectory import Trajectory

T = TypeVar("T")
DECIDE = ("world", "backbone", "probes", "threads")  # threads: sums in another order
MOST = 2 * 2**30  # bytes of video frames and latents that a process keeps for the runs to come


class Kept:
    """What was made, by kind and trajectory, as long as it is no more than `most` bytes: what comes later is made again by each run. (Every run takes
    the trajectories in the same order, so that keeping the newest instead would find nothing.)"""

    def __init__(self, most: int = 0) -> None:
        self._found: dict[tuple[str, str], object] = {}
        self._left = most

    def get(self, kind: str, trajectory: str, make: Callable[[], T]) -> T:
        """What was made before, else what `make` gives. Nobody may change it in place."""
        key = (kind, trajectory)
        if key in self._found:
            return self._found[key]  # pyright: ignore[reportReturnType]
        made = make()
        if (size := _bytes(made)) < self._left:
            self._found[key] = made
            self._left -= size
        return made


def _bytes(made: object) -> int:
    if isinstance(made, Trajectory):
        return made.images.nbytes + (0 if made.reference is None else made.reference.nbytes)
    return made.nbytes if isinstance(made, Tensor) else 0


_newest: tuple[str, Kept] = ("", Kept())


def kept_for(settings: dict, contents: dict[str, str]) -> Kept:
    """What earlier runs of this process have left for one with this world, backbone and probes; what others left is dropped. contents: digests of
    the files that settings name, and of code, which a process does not load anew."""
    global _newest
    files = {k: v for k, v in contents.items() if not k.startswith(CODE)}
    about = json.dumps([{k: settings[k] for k in DECIDE}, files], sort_keys=True)
    if about != _newest[0]:
        _newest = (about, Kept(MOST))
    return _newest[1]
