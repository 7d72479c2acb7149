"""A recurrent memory for the `rooms` network: matrices that are read before a chunk and written in its clean pass."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from backbones.rooms_memory import Memory
from harness.backbone import KVSeam

OPEN = 4.0  # logit of how much of a state a chunk leaves, before training: 98 %


class DeltaCell(nn.Module):
    """A state of d x d numbers a head under the gated delta rule (arXiv 2412.06464), one gate a chunk.

    A chunk's keys k_i (unit length) and values v_i are written in the order of its tokens, with strengths b_i in (0, 1) and a decay a:

        S_0 = a S,  S_i = S_(i-1) + b_i (v_i - S_(i-1) k_i) k_i^T

    What is read for a query q (unit length) is tanh(gate) S q, gates starting at zero: the network is then what it was without it.
    """

    def __init__(self, heads: int, dim: int) -> None:
        super().__init__()
        self.look, self.address = (nn.Parameter(torch.eye(dim).repeat(heads, 1, 1)) for _ in range(2))
        self.strength, self.decay = (nn.Parameter(torch.zeros(heads, dim)) for _ in range(2))
        self.strength_bias, self.decay_bias = nn.Parameter(torch.zeros(heads)), nn.Parameter(torch.full((heads,), OPEN))
        self.gate = nn.Parameter(torch.zeros(heads))

    def read(self, state: Float[Tensor, "b h d d"], q: Float[Tensor, "b m h d"]) -> Float[Tensor, "b m h d"]:
        with torch.autocast(q.device.type, enabled=False):
            query = F.normalize(torch.einsum("bmhd,hed->bmhe", q.float(), self.look.float()), dim=-1)
            found = torch.einsum("bhvd,bmhd->bmhv", state, query)
            return (self.gate.float().tanh()[:, None] * found).to(q.dtype)

    def write(self, state: Float[Tensor, "b h d d"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]) -> Float[Tensor, "b h d d"]:
        """All of a chunk's steps at once: they are one triangular system."""
        with torch.autocast(k.device.type, enabled=False):
            k, v = k.float(), v.float().transpose(1, 2)
            strength = torch.sigmoid(torch.einsum("bmhd,hd->bhm", k, self.strength.float()) + self.strength_bias.float()[:, None])
            decay = torch.sigmoid(torch.einsum("bhd,hd->bh", k.mean(1), self.decay.float()) + self.decay_bias.float())
            key = F.normalize(torch.einsum("bmhd,hed->bhme", k, self.address.float()), dim=-1)
            kept = decay[..., None, None] * state
            system = torch.tril(strength[..., None] * (key @ key.transpose(-1, -2)), -1)  # its diagonal counts as ones
            change = strength[..., None] * (v - key @ kept.transpose(-1, -2))
            steps = torch.linalg.solve_triangular(system, change, upper=False, unitriangular=True)
            return kept + steps.transpose(-1, -2) @ key


class RecurrentMemory(Memory):
    """In every second layer (`layers`) a `DeltaCell` beside the attention over the window. Simplified: keys and queries are the attention's own,
    un-rotated, so that of the camera they know what the ray features bring in, and time not at all."""

    remembers = True
    repeatable = False  # a second clean pass would write a second time

    def __init__(self, layers: int, heads: int, dim: int) -> None:
        super().__init__()
        self.layers, self._shape = tuple(range(1, layers, 2)), (heads, dim, dim)
        self.cells = nn.ModuleDict({str(layer): DeltaCell(heads, dim) for layer in self.layers})
        self._states: dict[int, Tensor] = {}

    def begin(self) -> None:
        self._states = {layer: self.blank(1) for layer in self.layers}

    def blank(self, batch: int) -> Float[Tensor, "b h d d"]:
        """The state of one layer before anything was written."""
        return torch.zeros(batch, *self._shape, device=self.device)

    def read(self, layer: int, state: Float[Tensor, "b h d d"], q: Float[Tensor, "b m h d"]) -> Float[Tensor, "b m h d"]:
        """What a state adds to the attention of one of `layers`."""
        return self.cells[str(layer)].read(state, q)  # pyright: ignore[reportCallIssue]

    def write(self, layer: int, state: Float[Tensor, "b h d d"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]) -> Tensor:
        """The state after a chunk whose clean pass had these keys (un-rotated) and values; the old one is not changed."""
        return self.cells[str(layer)].write(state, k, v)  # pyright: ignore[reportCallIssue]

    def seam(self, kv: KVSeam, clean: bool) -> KVSeam:
        return _Reading(self, kv, clean)

    def remember(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write a chunk; read before, it was without."""
        self._states[layer] = self.write(layer, self._states[layer], k, v)

    def recall(self, layer: int, q: Tensor) -> Tensor:
        return self.read(layer, self._states[layer], q)

    def state(self) -> dict[str, Tensor]:
        return {str(layer): state for layer, state in self._states.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._states = {int(layer): x.to(self.device) for layer, x in state.items()}


class _Reading:
    """The seam with what a recurrent memory recalls; in the clean pass the chunk is written after it was read."""

    def __init__(self, memory: RecurrentMemory, kv: KVSeam, clean: bool) -> None:
        self._memory, self._kv, self._clean = memory, kv, clean

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        o = self._kv(layer, q, k, v)
        if layer in self._memory.layers:
            o = o + self._memory.recall(layer, q)
            if self._clean:
                self._memory.remember(layer, k, v)
        return o

    def cross(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return self._kv.cross(layer, q, k, v)
