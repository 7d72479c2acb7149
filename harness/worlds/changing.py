"""Rooms and houses in which surfaces become other ones while nobody looks: who remembers what was seen first, and not what was seen last, is wrong there.

On 4 paths of `world=rooms_changing world.split=validation`, `policy=places` recalls the views that changed with 25.28 dB by its first sightings
(`policy.keep=first`) and with 29.38 dB by its newest (`policy.keep=newest`), by the first model that was shipped.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from harness.worlds.covisibility import CoVisibility
from harness.worlds.poses import rays
from harness.worlds.raycast import cast
from harness.worlds.render import render
from harness.worlds.revisits import Returns, Shares, Tolerance
from harness.worlds.scene import Scene

SAMPLES = 32  # rows of rays through a view: what it shows of a surface, down to two pixels of 64
SHOWN = 0.1  # of a view's rays that meet what has changed, if the view is to count
LATER = 10**9  # added to the seed of a room or house, beyond the seeds of every split: other surfaces

Paint = Callable[[Generator, int], Float[Tensor, "r r 3"]]  # what becomes of a surface, by chance


@dataclass(frozen=True)
class Change:
    """From frame `at` on the scene is `after`. surfaces: which of its textures are others."""

    at: int
    before: Scene
    after: Scene
    surfaces: tuple[int, ...]

    def render(self, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> Float[Tensor, "f 3 y x"]:
        """Every frame as the scene is at its time."""
        parts = ((self.before, slice(None, self.at)), (self.after, slice(self.at, None)))
        return torch.cat([render(scene, c2w[some], intrinsics[some], size) for scene, some in parts])

    def truth(self, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> CoVisibility:
        """Co-visibility along the path: a view from before the change shows nothing of what has become other since."""
        return CoVisibility(self.after, c2w, intrinsics, size, changed_at=self.at, changed=self.surfaces)

    def returns(
        self,
        tolerance: Tolerance,
        c2w: Float[Tensor, "f 4 4"],
        intrinsics: Float[Tensor, "f 4"],
        size: tuple[int, int],
        fov: float,
        truth: Shares | None = None,
        longer: str = "walk the path again (world.repeat)",
    ) -> Returns:
        """Pairs of views that show what has changed, the first visit after it did too: what is recalled shall be what is there.

        truth: of the frames from the change on. longer: what to set where there are none.
        """
        pairs, miss = tolerance.returns(c2w[self.at :], fov, truth=truth)
        new = torch.isin(surfaces(self.after, c2w, intrinsics, size), torch.tensor(self.surfaces)).float().mean(1) >= SHOWN
        moved = (replace(p, first=p.first + self.at, revisit=p.revisit + self.at, unrelated=p.unrelated + self.at) for p in pairs)
        found = tuple(p for p in moved if new[p.first])
        miss = miss or ("" if found else "no view that comes back shows what has changed")
        return Returns(found, miss and f"after things have changed (frame {self.at}): {miss}; {longer}")


def check_changes(changes: float, protocol: str) -> None:
    """Raises ValueError for a world in which nobody could know what has changed."""
    if changes and protocol != "guided":
        raise ValueError(f"world.changes={changes} with world.protocol={protocol}: what has changed can only be known where it is given; use guided")


def change(
    at: int,
    scene: Scene,
    able: Collection[int],
    paint: Paint,
    seed: int,
    share: float,
    c2w: Float[Tensor, "f 4 4"],
    intrinsics: Float[Tensor, "f 4"],
    size: tuple[int, int],
) -> Change:
    """The change of a scene at a frame: `share` of the surfaces among `able` that the path has shown and that are out of sight there become
    others, one at least. Geometry stays. paint: asked for them in the order in which the seed's chance chooses them.

    Raises ValueError where nothing that was seen is out of sight then.
    """
    shown = surfaces(scene, c2w[: at + 1], intrinsics[: at + 1], size)
    seen, here = (set(views.unique().tolist()) for views in (shown[:at], shown[at - 1 :]))
    hidden = sorted(i for i in seen - here if i in able)
    if not hidden:
        raise ValueError(f"world.changes: all that was seen is in sight at frame {at}, where things would change; use a path that turns further")
    g = torch.Generator().manual_seed(seed + LATER)
    order = [hidden[i] for i in torch.randperm(len(hidden), generator=g).tolist()]
    chosen = tuple(sorted(order[: max(1, round(share * len(hidden)))]))
    textures = scene.textures.clone()
    for i in chosen:
        textures[i] = paint(g, i)
    return Change(at, scene, replace(scene, textures=textures), chosen)


def surfaces(scene: Scene, c2w: Float[Tensor, "f 4 4"], intrinsics: Float[Tensor, "f 4"], size: tuple[int, int]) -> Int[Tensor, "f n"]:
    """The texture that each ray of the views meets."""
    rows, columns = SAMPLES, round(SAMPLES * size[1] / size[0])
    origin, direction = rays(c2w, intrinsics, (rows, columns), rows / size[0])
    return cast(scene, origin, direction).surface
