"""What an arm of the `rooms` backbone remembers besides K/V. Nothing, unless a subclass says otherwise."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backbones.codecs import ConvCodec
from harness.backbone import KVSeam
from harness.datatypes import Chunk
from harness.trajectory import Trajectory


class Memory(nn.Module):
    """The trained modules of an arm and, between `begin` and the next one, the state of a rollout.

    repeatable, remembers: see `Backbone`.
    Its inputs lie on the module's device, poses are relative to the rollout's first.
    """

    repeatable: bool = True
    remembers: bool = False

    def begin(self) -> None:
        """A rollout starts: nothing is remembered."""

    def look(self, codec: ConvCodec, trajectory: Trajectory, chunk: Chunk, c2w: Float[Tensor, "f 4 4"]) -> tuple[Tensor, ...]:
        """More inputs of a chunk's passes, from what is remembered; the first, `1 f s w`, is added to the embedding."""
        return ()

    def seam(self, kv: KVSeam, rays: Float[Tensor, "b f s r"], clean: bool) -> KVSeam:
        """The seam of one pass, with what the memory adds to attention. rays: the network's features of the chunk's rays. clean: whether the
        pass is the chunk's last, which is remembered."""
        return kv

    def keep(self, codec: ConvCodec, x0: Float[Tensor, "1 f s c"], inputs: tuple[Tensor, ...]) -> None:
        """The chunk's clean pass has ended. inputs: what `look` gave for it."""

    def forced(
        self, codec: ConvCodec, past: Float[Tensor, "b g s c"], c2w: Float[Tensor, "b f 4 4"], intrinsics: Float[Tensor, "b f 4"]
    ) -> Float[Tensor, "b f s w"] | None:
        """What `look` adds to the embedding, for all chunks of clips at once, each from the latents `past` of the chunks before it (of the
        last chunk there are none). None: nothing."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What is remembered; tensors that are replaced and never changed in place."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Remember what `state` gave."""

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return sum(x.nbytes for x in self.state().values())

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))
