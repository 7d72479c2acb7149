"""Where one may walk in a world that has a truth: its scene, and the floor positions that a camera may take."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from harness.worlds.render import render
from harness.worlds.scene import Scene


@dataclass(frozen=True)
class Ground:
    """free: whether a camera may stand at floor positions (x, z), in metres. looks: of each of the scene's cells, what it looks like: cells of the
    same number look alike; (): nothing does."""

    scene: Scene
    free: Callable[[Float[Tensor, "n 2"]], Bool[Tensor, "n"]]
    looks: tuple[int, ...] = ()

    def view(self, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> Float[Tensor, "f 3 y x"]:
        """The true images in [0, 1] from camera poses."""
        return render(self.scene, c2w, intrinsics, size)

    def plan(self) -> dict[str, list[list[float]]]:
        """From above: `open` (rooms and doorways) and `solid` (what stands in them), each x0, z0, x1, z1 in metres."""
        cells = self.scene.cells
        solid = [box for cell in cells for box in cell.boxes]
        return {name: [[round(v, 3) for v in (b.lo[0], b.lo[2], b.hi[0], b.hi[2])] for b in some] for name, some in (("open", cells), ("solid", solid))}
