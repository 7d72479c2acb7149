"""The settings of the main job that belong to no group (conf/config.yaml): what each may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from harness.settings.ranges import Count, Ge, Le, Lt, Natural, Rule, Seed

GROUPS = ("budget", "policy", "backbone", "world", "store", "metric")  # each is checked by the classes that it names


def _is_name(text: str) -> bool:
    return 0 < len(text) <= 120 and not text.startswith((".", "-", "~")) and "/" not in text and "\\" not in text and text.isprintable()


Name = Annotated[str, Rule(_is_name, "up to 120 letters, digits or signs without / and not beginning with a dot or a dash: the name of a folder")]
Threads = Annotated[int, Ge(1), Le(512)]


@dataclass(frozen=True)
class Probes:
    """count: forks a trajectory, shared among the gaps. gaps: chunks since the view was last seen, at least; rising.

    metres, degrees: how far beside the earlier view a probe looks, at most (half of it at least); 0 and 0: the very same view.
    audit: what the pages that a probe brings back are replaced by, in a fork more for each (`harness.evaluation.audit`).
    """

    count: Natural = 8
    gaps: Sequence[Count] = (4, 8, 16, 32)
    metres: Annotated[float, Ge(0), Lt(1000)] = 0.0
    degrees: Annotated[float, Ge(0), Le(180)] = 0.0
    audit: Sequence[Literal["wrong", "other", "mean", "none"]] = ()

    def __post_init__(self) -> None:
        if self.count and (not self.gaps or min(self.gaps) < 1 or list(self.gaps) != sorted(set(self.gaps))):
            raise ValueError(f"probes.gaps={list(self.gaps)}; give rising numbers of chunks, each 1 or more, such as [4,8,16,32]")
        if len(set(self.audit)) < len(self.audit):
            raise ValueError(f"probes.audit={list(self.audit)} names one twice; use some of wrong, other, mean and none")
        if self.audit and not self.count:
            raise ValueError(f"probes.audit={list(self.audit)} replaces what recall probes bring back, and there are none; give probes.count=8 too")

    @property
    def beside(self) -> bool:
        """Whether probes look from beside the earlier view."""
        return self.metres > 0 or self.degrees > 0


@dataclass(frozen=True)
class SnapshotSettings:
    """See `harness.rollout.Snapshot`."""

    save: str | None
    load: str | None
    chunks: Count | None


@dataclass(frozen=True)
class MainSettings:
    """All of them."""

    name: Name | int
    seed: Seed
    run_dir: str | None
    overwrite: bool
    logger: Literal["auto", "online", "offline", "trackio", "none"]
    live_chunks: Natural
    tags: Sequence[str | int | float]
    notes: str | int | float
    videos: Natural
    progress: bool
    threads: Threads | None
    devices: Annotated[int, Ge(1), Le(1024)]
    probes: Probes
    snapshot: SnapshotSettings
    published: Mapping[str, Mapping[str, float]]
    plugins: Sequence[str]
