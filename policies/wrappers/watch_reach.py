"""Measures how far back heads look, and changes nothing."""

from dataclasses import dataclass

from torch import Tensor

from harness.datatypes import Geometry, Site
from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Natural
from policies.parts.reach import Reach


@dataclass
class WatchReachPolicy(PolicyWrapper):
    """For harness/calibrate.py: the reach of every head (see `policies.parts.reach`) over the clean passes of the chunks in `chunks`."""

    inner: CachePolicy
    chunks: frozenset[int]
    sink: Natural = 3
    recent: Natural = 3

    def reset(self, geometry: Geometry) -> None:
        super().reset(geometry)
        geometry.check_alone("the calibration of heads")
        self.needs_attention_scores, self._size = True, geometry.chunk
        self.reach = Reach()
        self.reach.reset(geometry)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, site: Site) -> Tensor:
        if site.clean and not site.cross and site.chunk in self.chunks:
            self.reach.look(q, k, site, [f for f in site.slots if self.sink <= f < site.chunk * self._size - self.recent], self.sink)
        return super().attend(q, k, v, site)
