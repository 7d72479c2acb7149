"""How far back heads look, and files of it."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from harness.cache.attention import received
from harness.datatypes import Geometry, Site

LABELS = Path(__file__).parents[1] / "labels"  # of the shipped backbones, made by harness/calibrate.py


@dataclass
class Reach:
    """A head's reach is the share of its attention that falls on frames between sink and recent, of all that does not fall on the
    sink: mean over the queries of the clean passes that it is shown."""

    def reset(self, geometry: Geometry) -> None:
        self._total = torch.zeros(geometry.layers, geometry.heads, device=geometry.device)
        self.passes = 0

    def look(self, q: Tensor, k: Tensor, site: Site, old: list[int], sink: int) -> None:
        mass = received(q, k, site.bias, site.groups)
        far, first = (mass[:, _rows(frames, site)].sum(1) for frames in (old, range(sink)))
        self._total[site.layer] += far / (1 - first)
        self.passes += site.layer == 0

    @property
    def mean(self) -> Float[Tensor, "l h"]:
        return self._total / max(self.passes, 1)


def labels_of(labels: str, geometry: Geometry) -> Float[Tensor, "l h"] | None:
    """The reach of every head from a file, or with `auto` from the shipped file of a backbone of this geometry; None if there is none.

    Raises ValueError for a file that is missing, damaged or of another network.
    """
    name, sizes = file_name(geometry), _sizes(geometry)
    path = LABELS / name if labels == "auto" else Path(labels)
    if labels == "auto" and not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        reach, theirs = torch.tensor(content["reach"], device=geometry.device), content["sizes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"heads: labels={labels} cannot be read ({error}); make them: python harness/calibrate.py backbone=...") from error
    if theirs != sizes:
        raise ValueError(f"heads: labels={labels} are of a network of {theirs}, this one has {sizes}; make them: python harness/calibrate.py backbone=...")
    if not torch.isfinite(reach.float()).all():
        raise ValueError(f"heads: labels={labels} hold a reach that is no number; make them: python harness/calibrate.py backbone=...")
    if tuple(reach.shape) != (geometry.layers, geometry.heads):
        raise ValueError(f"heads: labels={labels} have a reach of {tuple(reach.shape)}; make them: python harness/calibrate.py backbone=...")
    return reach


def labels_text(reach: Float[Tensor, "l h"], geometry: Geometry, about: dict) -> str:
    """What a file of labels holds. about: how the reach was measured."""
    rows = [[round(x, 6) for x in row] for row in reach.tolist()]
    return json.dumps({"sizes": _sizes(geometry), "reach": rows, "about": about}, indent=1) + "\n"


def file_name(geometry: Geometry) -> str:
    return "layers{layers}_heads{heads}x{head_dim}_chunk{chunk}x{tokens}.json".format(**_sizes(geometry))


def _sizes(g: Geometry) -> dict[str, int]:
    return {name: getattr(g, name) for name in ("layers", "heads", "head_dim", "chunk", "tokens")}


def _rows(frames: list[int] | range, site: Site) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.long), *(torch.from_numpy(site.slots[f]) for f in frames if f in site.slots)])
