"""A recurrent memory for the `rooms` network: matrices that are read before a chunk and written in its clean pass."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backbones.rooms_memory import Memory
from backbones.rooms_network import DIRECTION, ORIGIN
from harness.backbone import KVSeam

OPEN = 6.0  # logit of how much of a state a chunk leaves, before training: 99.8 %
SHARP = 10.0  # logits a unit of what decides how much of a recalled value is taken: at a small rate, that is learned in tens of steps
TAKEN = -0.1  # the same before training: a share of 0.27
STRENGTH = -1.4  # logit of how far a row overwrites what was there, before training: 0.2
# Chosen by what an untrained state gives back at a return, on 6 validation clips that go back the way they came: of the variance of the values, mean of
# layers 1, 3 and 5, a share of 0.33 and 0.45 after 11 and 13 chunks; with 48, 3, 2 and a strength of a half, -0.23 and -0.05.
WAVES = 256  # frequencies a head, so that a key has 512 numbers
ACROSS, ALONG = 10.0, 5.0  # their spread before training: radians a unit of direction, and a metre of the camera's place


class DeltaCell(nn.Module):
    """A state of `dim` x `keys` numbers a head under the gated delta rule (arXiv 2412.06464), one gate a chunk.

    A key says where a token looks: the cosines and sines of its ray's direction and origin at learned frequencies (random Fourier features,
    arXiv 2006.10739, of unit length), so that a state is a map from rays to values. With the attention's own
    un-rotated keys in their place nothing was learned (docs/trained.md).
    A chunk's keys k_i and values v_i are written in the order of its tokens, with strengths b_i in (0, 1) and a decay a:

        S_0 = a S,  S_i = S_(i-1) + b_i (v_i - S_(i-1) k_i) k_i^T

    What attention says, o, is mixed with what is recalled along a token's ray, m = S k, by how the token asks (its query q, of unit length) and how
    much was found there:

        o + g (m - o),  g = sigmoid(10 (w q + b + c |m|))

    With one gate a head in its place nothing was learned: most tokens have in their window what they ask for.
    seed: of the frequencies, another for each layer.
    """

    def __init__(self, heads: int, dim: int, seed: int) -> None:
        super().__init__()
        spread = torch.tensor([ACROSS] * 3 + [ALONG] * 3)
        self.waves = nn.Parameter(torch.randn(heads, WAVES, 6, generator=torch.Generator().manual_seed(seed)) * spread)
        self.strength, self.decay = (nn.Parameter(torch.zeros(heads, dim)) for _ in range(2))
        self.strength_bias, self.decay_bias = (nn.Parameter(torch.full((heads,), logit)) for logit in (STRENGTH, OPEN))
        self.asked, self.taken, self.found = nn.Parameter(torch.zeros(heads, dim)), nn.Parameter(torch.full((heads,), TAKEN)), nn.Parameter(torch.zeros(heads))

    def keys(self, rays: Float[Tensor, "b m r"]) -> Float[Tensor, "b h m e"]:
        """rays: the network's features of them."""
        looks = torch.cat([rays[..., DIRECTION], rays[..., ORIGIN]], -1).float()
        phase = torch.einsum("bmr,hwr->bhmw", looks, self.waves.float())
        return torch.cat([phase.cos(), phase.sin()], -1) / WAVES**0.5

    def read(self, state: Float[Tensor, "b h d e"], rays: Float[Tensor, "b m r"]) -> Float[Tensor, "b m h d"]:
        with torch.autocast(rays.device.type, enabled=False):
            return (self.keys(rays) @ state.transpose(-1, -2)).transpose(1, 2)

    def mix(self, o: Float[Tensor, "b m h d"], recalled: Float[Tensor, "b m h d"], q: Float[Tensor, "b m h d"]) -> Float[Tensor, "b m h d"]:
        """o where nothing was written yet."""
        with torch.autocast(o.device.type, enabled=False):
            size = recalled.norm(dim=-1)
            asks = torch.einsum("bmhd,hd->bmh", nn.functional.normalize(q.float(), dim=-1), self.asked.float())
            share = torch.sigmoid(SHARP * (asks + self.taken.float() + self.found.float() * size / recalled.shape[-1] ** 0.5))
            share = torch.where(size > 0, share, 0.0)[..., None]
            return o + (share * (recalled - o.float())).to(o.dtype)

    def write(
        self, state: Float[Tensor, "b h d e"], rays: Float[Tensor, "b m r"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]
    ) -> Float[Tensor, "b h d e"]:
        """All of a chunk's steps at once: they are one triangular system. k: the attention's, by which strength and decay are chosen."""
        with torch.autocast(rays.device.type, enabled=False):
            k, v = k.float(), v.float().transpose(1, 2)
            strength = torch.sigmoid(torch.einsum("bmhd,hd->bhm", k, self.strength.float()) + self.strength_bias.float()[:, None])
            decay = torch.sigmoid(torch.einsum("bhd,hd->bh", k.mean(1), self.decay.float()) + self.decay_bias.float())
            key = self.keys(rays)
            kept = decay[..., None, None] * state
            system = torch.tril(strength[..., None] * (key @ key.transpose(-1, -2)), -1)  # its diagonal counts as ones
            change = strength[..., None] * (v - key @ kept.transpose(-1, -2))
            steps = torch.linalg.solve_triangular(system, change, upper=False, unitriangular=True)
            return kept + steps.transpose(-1, -2) @ key


class RecurrentMemory(Memory):
    """In every second layer (`layers`) a `DeltaCell` beside the attention over the window. Simplified: a state is addressed by the ray alone, not by
    what the network has made of it so far, and knows nothing of time."""

    remembers = True
    repeatable = False  # a second clean pass would write a second time

    def __init__(self, layers: int, heads: int, dim: int) -> None:
        super().__init__()
        self.layers, self._shape = tuple(range(1, layers, 2)), (heads, dim, 2 * WAVES)
        self.cells = nn.ModuleDict({str(layer): DeltaCell(heads, dim, layer) for layer in self.layers})
        self._states: dict[int, Tensor] = {}

    def begin(self) -> None:
        self._states = {layer: self.blank(1) for layer in self.layers}

    def blank(self, batch: int) -> Float[Tensor, "b h d e"]:
        """The state of one layer before anything was written."""
        return torch.zeros(batch, *self._shape, device=self.device)

    def read(self, layer: int, state: Float[Tensor, "b h d e"], rays: Float[Tensor, "b m r"]) -> Float[Tensor, "b m h d"]:
        """What a state of one of `layers` holds along rays."""
        return self.cells[str(layer)].read(state, rays)  # pyright: ignore[reportCallIssue]

    def mix(self, layer: int, o: Float[Tensor, "b m h d"], recalled: Float[Tensor, "b m h d"], q: Float[Tensor, "b m h d"]) -> Float[Tensor, "b m h d"]:
        """What attention over the window says, o, and what was recalled, by the tokens' un-rotated queries."""
        return self.cells[str(layer)].mix(o, recalled, q)  # pyright: ignore[reportCallIssue]

    def write(
        self, layer: int, state: Float[Tensor, "b h d e"], rays: Float[Tensor, "b m r"], k: Float[Tensor, "b m h d"], v: Float[Tensor, "b m h d"]
    ) -> Float[Tensor, "b h d e"]:
        """The state after a chunk whose clean pass had these keys (un-rotated) and values; the old one is not changed."""
        return self.cells[str(layer)].write(state, rays, k, v)  # pyright: ignore[reportCallIssue]

    def seam(self, kv: KVSeam, rays: Float[Tensor, "b f s r"], clean: bool) -> KVSeam:
        return _Reading(self, kv, rays.flatten(1, 2), clean)

    def remember(self, layer: int, rays: Tensor, k: Tensor, v: Tensor) -> None:
        """Write a chunk; read before, it was without."""
        self._states[layer] = self.write(layer, self._states[layer], rays, k, v)

    def recall(self, layer: int, rays: Tensor) -> Tensor:
        return self.read(layer, self._states[layer], rays)

    def state(self) -> dict[str, Tensor]:
        return {str(layer): state for layer, state in self._states.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._states = {int(layer): x.to(self.device) for layer, x in state.items()}


class _Reading:
    """The seam with what a recurrent memory recalls; in the clean pass the chunk is written after it was read."""

    def __init__(self, memory: RecurrentMemory, kv: KVSeam, rays: Float[Tensor, "b m r"], clean: bool) -> None:
        self._memory, self._kv, self._rays, self._clean = memory, kv, rays, clean

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        o = self._kv(layer, q, k, v)
        if layer in self._memory.layers:
            o = self._memory.mix(layer, o, self._memory.recall(layer, self._rays), q)
            if self._clean:
                self._memory.remember(layer, self._rays, k, v)
        return o

    def cross(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        return self._kv.cross(layer, q, k, v)
