"""What cameras see of fixed probe points: the ground that the view-based selectors stand on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harness.datatypes import KV, Chunk, Geometry
from harness.settings.ranges import Positive, Side
from policies.parts.chunk_table import ChunkTable
from policies.parts.select.base import Selector
from policies.parts.select.kinds import Kinds
from policies.parts.select.probe_points import frustums, may_see, probes, sees


@dataclass
class FrustumSelector(Selector):
    """Selectors that compare views by probe points: `grid` x `grid` rays through every view of the next chunk, with
    `shells` points each at depths spaced evenly in the logarithm from `near` to `far` metres.

    Without depth nobody knows where on its ray the scene lies, so every depth counts alike and walls hide nothing. A
    camera sees what is in its frustum, at most `far` away. Images are taken to be centred on their principal point.
    Chunks whose cameras are the same to 1e-4 are looked at once.
    """

    grid: Side = 8
    shells: Side = 4
    near: Positive = 0.5
    far: Positive = 8.0

    def reset(self, geometry: Geometry) -> None:
        if self.near >= self.far:
            raise ValueError(f"frustum selector: near={self.near}, far={self.far}; near must be below far")
        self._size = geometry.chunk
        self._cameras = ChunkTable()  # columns: what the views see (`frustums`), label, c2w, intrinsics
        self._cameras.reset()

    def observe(self, chunk: Chunk, kv: KV) -> None:
        c2w, intrinsics = chunk.c2w, chunk.intrinsics
        self._cameras.put(chunk.index, frustums(c2w, intrinsics, self.far), _label(c2w, intrinsics), c2w, intrinsics)

    def forget(self, chunk: int) -> None:
        self._cameras.forget(chunk)

    def kinds(self, candidates: list[int]) -> Kinds:
        """Candidates with the same cameras together."""
        return Kinds(np.array(candidates), self._cameras.take(candidates, 1)[0].numpy())

    def seen(self, points: Float[Tensor, "f p 3"], frames: Sequence[int]) -> Bool[Tensor, "g f p"]:
        """Which probe points the views of `frames` see."""
        if not frames:
            return torch.zeros(0, *points.shape[:2], dtype=torch.bool)
        (cameras,) = self._cameras.take([f // self._size for f in frames], 0)
        own = torch.arange(len(frames)), torch.tensor([f % self._size for f in frames])
        return sees(points.flatten(0, 1), cameras[own]).unflatten(1, points.shape[:2])

    def sight(self, chunk: Chunk, candidates: Sequence[int]) -> "Sight":
        """What the views of candidate chunks see of the probe points of all views of `chunk`."""
        (cameras,) = self._cameras.take(candidates, 0)
        return Sight(self._probes(chunk.c2w, chunk.intrinsics), cameras, self.grid, self.shells, self.far)

    def back(self, chunk: Chunk, candidates: list[int]) -> Float[Tensor, "c v f"]:
        """The other direction: the share of the probe points of each candidate's view that each view of `chunk` sees."""
        c2w, intrinsics = self._cameras.take(candidates, 2, 3)
        points = self._probes(c2w.flatten(0, 1), intrinsics.flatten(0, 1))
        share = sees(points.flatten(0, 1), frustums(chunk.c2w, chunk.intrinsics, self.far)).unflatten(1, points.shape[:2]).float().mean(-1)
        return share.T.unflatten(0, (len(candidates), self._size))

    def _probes(self, c2w: Tensor, intrinsics: Tensor) -> Tensor:
        return probes(c2w, intrinsics, self.grid, self.shells, self.near, self.far)


@dataclass(frozen=True)
class Sight:
    """points: of `f` views. cameras: of chunks of `v` views each (`frustums`). The rest: see `FrustumSelector`."""

    points: Float[Tensor, "f p 3"]
    cameras: Float[Tensor, "c v 5 4"]
    grid: int
    shells: int
    far: float

    def views(self, some: Sequence[int] | Int[np.ndarray, "k"]) -> Bool[Tensor, "k v f p"]:
        """Which points each of the views of some of the chunks sees."""
        cameras = self.cameras[torch.as_tensor(some)]
        return sees(self.points.flatten(0, 1), cameras.flatten(0, 1)).view(*cameras.shape[:2], *self.points.shape[:2])

    def may_see(self) -> Bool[Tensor, "c v b"]:
        """Which blocks of the points (see `blocks`) each view of each chunk may see any point of. Of those that it may not it sees none: their bounding
        spheres lie beyond one side of its frustum."""
        return may_see(self.points, self.cameras.flatten(0, 1), self.grid, self.shells, self.far).unflatten(0, self.cameras.shape[:2])


def _label(c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"]) -> Int[Tensor, ""]:
    """One number for the cameras of a chunk, the same for the same ones."""
    numbers = torch.cat([c2w[:, :3].flatten(), intrinsics.flatten()]).double().mul(1e4).round().long()
    factors = torch.randint(2**62, numbers.shape, generator=torch.Generator().manual_seed(0))
    return (numbers * (2 * factors + 1)).sum()  # modulo 2^64: a polynomial hash
