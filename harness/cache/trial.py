"""What the model would make of a chunk if it attended to given frames: one pass, compared with the true views."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.attention import Attends
from harness.cache.kv_cache import KVCache
from harness.datatypes import Chunk, Condition, Plan


@dataclass(frozen=True)
class Trial:
    """`Chunk.trial` of a chunk. noise: of its first pass. truth: the true views of its video frames."""

    backbone: Backbone
    cache: KVCache
    policy: Attends
    chunk: Chunk
    condition: Condition
    noise: Float[Tensor, "1 f s c"]
    truth: Float[Tensor, "p 3 y x"]

    def __call__(self, frames: Sequence[int]) -> float:
        """PSNR in dB of the first guess. Frames that the bank does not have are left out; the backbone's own state stays as it was."""
        backbone, cache, state = self.backbone, self.cache, self.backbone.state()
        cache.assemble(Plan(tuple(f for f in frames if cache.bank.rows(f))), self.chunk, self.condition, self.policy)
        cache.window.begin_pass(0, clean=False)
        guess = backbone.denoise(self.noise, backbone.timesteps[0], self.condition, cache.window)
        shown = backbone.decode(guess[0])
        backbone.restore(state)
        return -10 * (shown.cpu() - self.truth.cpu()).square().mean().clamp_min(1e-10).log10().item()
