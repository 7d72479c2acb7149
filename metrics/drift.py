"""How far a rollout drifts from what it should look like, apart from whether it remembers."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harness.outcome import Rollout
from harness.trajectory import Trajectory
from metrics.column import Column

ABOUT = "local contrast against the true frames: 1 is as sharp; blur flatters a revisit score"
COLUMNS = (Column("quality/contrast", "contrast", "contrast", "quality", 2, 0, ABOUT, rank=4),)


def local_contrast(frames: Float[Tensor, "n 3 y x"], window: int = 8) -> Float[Tensor, "n"]:
    """Mean standard deviation within `window`-pixel tiles: blur lowers it, noise and grids raise it."""
    mean = F.avg_pool2d(frames, window)
    variance = F.avg_pool2d(frames.square(), window) - mean.square()
    return variance.clamp(min=0).sqrt().mean((1, 2, 3))


def drift(rollout: Rollout, trajectory: Trajectory) -> dict[str, float]:
    """quality/contrast: local contrast of the generated frames as a share of the true ones' (1: as sharp; blur flatters
    a revisit score, so it stands beside it)."""
    if trajectory.reference is None or not rollout.generated.any():
        return {}
    mine = local_contrast(rollout.frames[rollout.generated]).mean()
    true = local_contrast(trajectory.reference[: len(rollout.frames)][rollout.generated]).mean()
    return {"quality/contrast": (mine / true).item()} if true > 0 else {}  # true frames of one colour have no contrast to keep
