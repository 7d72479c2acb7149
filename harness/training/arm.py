"""The Lightning module of an arm: the denoiser trained on within the windows of the policy that it is for."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from backbones.codecs import ConvCodec
from backbones.rooms_memory import Memory
from backbones.rooms_network import RoomsNetwork
from harness.datatypes import Geometry
from harness.policy import CachePolicy
from harness.training.clips import CHUNK, Clip
from harness.training.modules import DRAWS, DenoiserTraining
from harness.training.planned import PlannedForcing
from harness.training.windows import Window, check_by_place, windows
from policies.full import FullPolicy

OWN_FROM = 2 / 3  # of the steps; from here on the model's own predictions are context, more and more of them


class ArmTraining(DenoiserTraining):
    """As `DenoiserTraining`, but every chunk sees what `policy` would show it, and what `memory` adds to it.

    share: of clips whose windows are the policy's; in the others every chunk sees its whole past. own: of the context's chunks that are the
    model's own predictions (one pass, from the noise level that the step has drawn for each chunk, instead of a chunk's four) at the end of training; their
    share rises from nothing over the last third. lr_memory: highest learning rate of the memory's own weights, which are new and learn faster than those that
    were trained before. Clips and their order are functions of the seed, noise of seed and step, so that arms of one seed differ by their memory alone.
    """

    def __init__(
        self, network: RoomsNetwork, codec: ConvCodec, memory: Memory, policy: CachePolicy, share: float, own: float, lr_memory: float, **training
    ) -> None:
        super().__init__(network, codec, **training)
        self.memory, self.policy, self.share, self.own, self.lr_memory = memory, policy, share, own, lr_memory
        self._checked = False  # whether the policy's windows are those of a rollout
        self.trained = nn.ModuleDict({"network": network, "memory": memory})  # the same modules, as one

    def learned(self) -> dict[str, nn.Parameter]:
        return super().learned() | self.added()

    def added(self) -> dict[str, nn.Parameter]:
        """The weights that the arm adds."""
        return {f"memory.{k}": p for k, p in self.memory.named_parameters() if p.requires_grad}

    def rate(self, name: str) -> float:
        return self.lr_memory if name.startswith("memory.") else super().rate(name)

    def predict(self, clip: Clip, past: Tensor, noisy: Tensor, level: Tensor, features: Tensor, positions: Tensor) -> Float[Tensor, "b f s c"]:
        draws = self.drawn(DRAWS)
        seen = self.windows(clip, positions, draws)
        share = self.own_share(int(self.step)) if self.training else 0.0
        if share:
            with torch.no_grad():
                predicted = self._x0(clip, seen, past, noisy, level, features, positions)[:, :-CHUNK]
            b, f = predicted.shape[:2]
            chosen = (torch.rand(b, f // CHUNK, generator=draws) < share).repeat_interleave(CHUNK, 1).to(past.device)
            past = torch.cat([past[:, :CHUNK], torch.where(chosen[..., None, None], predicted, past[:, CHUNK:])], 1)
        return self._x0(clip, seen, past, noisy, level, features, positions)

    def own_share(self, step: int) -> float:
        """Of the context's chunks that are the model's own predictions at a step."""
        first = OWN_FROM * self.steps
        return self.own * max(0.0, (step + 1 - first) / (self.steps - first))

    def windows(self, clip: Clip, positions: Float[Tensor, "b f s 3"], draws: torch.Generator) -> list[list[Window]]:
        """By clip and chunk. Validation is all of it within the policy's windows."""
        g = self.geometry(positions.shape[2], clip.frames.shape[-1] / clip.frames.shape[-2])
        if not self._checked:
            check_by_place(self.policy, g, clip.c2w[0], clip.intrinsics[0], positions[0])
            self._checked = True
        own = torch.rand(len(clip.times), generator=draws) < (self.share if self.training else 1.0)
        chosen = [self.policy if mine else FullPolicy() for mine in own.tolist()]
        return [windows(policy, g, *one) for policy, one in zip(chosen, zip(clip.c2w, clip.intrinsics, positions, strict=True), strict=True)]

    def geometry(self, tokens: int, aspect: float) -> Geometry:
        """aspect: width over height of the pictures, which tokens part into squares."""
        block, columns = self.network.blocks[0], round((tokens * aspect) ** 0.5)
        return Geometry(len(self.network.blocks), block.heads, block.qkv.in_features // block.heads, tokens, CHUNK, columns=columns)  # pyright: ignore

    def _x0(
        self, clip: Clip, seen: list[list[Window]], past: Tensor, noisy: Tensor, level: Tensor, features: Tensor, positions: Tensor
    ) -> Float[Tensor, "b f s c"]:
        seam = PlannedForcing(seen, positions, features, CHUNK, self.memory)
        extra = self.memory.forced(self.codec, past, clip.c2w, clip.intrinsics)
        both = None if extra is None else _both(extra)
        x0 = self.network(torch.cat([past, noisy], 1), torch.cat([torch.zeros_like(level), level], 1), _both(features), seam, both)
        return x0[:, past.shape[1] :].float()


def _both(x: Tensor) -> Tensor:
    """What belongs to all chunks, for the clean copy (all but the last) and the noisy one (all but the first)."""
    return torch.cat([x[:, :-CHUNK], x[:, CHUNK:]], 1)
