"""A split shares a budget of rows out over the layers: the average stays, so that splits compare at equal bytes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

from jaxtyping import Float
from torch import Tensor

from harness.datatypes import Geometry, Site
from harness.settings.ranges import Ge


class Split(ABC):
    """State starts at `reset`. needs_attention_scores: whether it reads the attention calls that pass by."""

    needs_attention_scores: bool = False

    def reset(self, geometry: Geometry) -> None:
        self._layers = geometry.layers

    def look(self, q: Float[Tensor, "b m h d"], k: Float[Tensor, "b n h d"], site: Site) -> None:
        """Rotated queries and keys of an attention call pass by."""

    @abstractmethod
    def weights(self) -> list[float]:
        """What each layer gets of the budget, up to a common factor."""

    def counts(self, mean: int, caps: list[int]) -> list[int]:
        """Rows of each layer: in proportion to `weights`, at most `caps`, together `mean` a layer or all there are.

        What a full layer leaves goes to the others in proportion; fractions go to the largest, ties to the first layer.
        """
        shares, counts = self.weights(), [0] * len(caps)
        left, free = min(mean * len(caps), sum(caps)), set(range(len(caps)))
        while left:
            total = sum(shares[i] for i in free)
            part = {i: left * (shares[i] / total if total > 0 else 1 / len(free)) for i in free}
            full = [i for i in free if part[i] >= caps[i]]
            if not full:
                for i in free:
                    counts[i] = int(part[i])
                rest = left - sum(counts[i] for i in free)
                for i in sorted(free, key=lambda i: (int(part[i]) - part[i], i))[:rest]:
                    counts[i] += 1
                break
            for i in full:
                counts[i] = caps[i]
                left -= caps[i]
                free.remove(i)
        return counts


@dataclass
class Uniform(Split):
    """Every layer the same."""

    def weights(self) -> list[float]:
        return [1.0] * self._layers


@dataclass
class Pyramid(Split):
    """PyramidKV (arXiv 2406.02069): from 2 - 1/beta of the average in the first layer down to 1/beta in the last, in equal
    steps. Uncertain: measured on language models; whether a video model's early layers attend more widely is open. beta
    below 1 turns the pyramid round, 1 is uniform."""

    beta: Annotated[float, Ge(0.5)] = 20.0

    def weights(self) -> list[float]:
        steps = [i / max(self._layers - 1, 1) for i in range(self._layers)]
        return [2 - 1 / self.beta - (2 - 2 / self.beta) * at for at in steps] if self._layers > 1 else [1.0]
