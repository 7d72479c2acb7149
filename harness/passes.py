"""The noise of a chunk, and the passes that make its latents from it."""

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from harness.backbone import Backbone
from harness.cache.context import ContextBuffer
from harness.datatypes import Condition


def generator(seed: int, name: str, chunk: int) -> torch.Generator:
    """The noise of a chunk of a trajectory: the same for every policy and device."""
    digest = hashlib.sha256(f"{seed}/{name}/{chunk}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def denoised(backbone: Backbone, window: ContextBuffer, draws: Sequence[Float[Tensor, "1 f s c"]], condition: Condition) -> Float[Tensor, "p 1 f s c"]:
    """The clean latents that each denoising pass predicts. draws: noise of every level, the highest first."""
    levels = backbone.timesteps
    x, guesses = draws[0], []
    for step, t in enumerate(levels):
        window.begin_pass(step, clean=False)
        guesses.append(backbone.denoise(x, t, condition, window))
        if step + 1 < len(levels):
            x = backbone.renoise(guesses[-1], levels[step + 1], draws[step + 1])
    return torch.stack(guesses)


def latents_of(
    backbone: Backbone,
    window: ContextBuffer,
    draws: Sequence[Float[Tensor, "1 f s c"]],
    given: Float[Tensor, "1 f s c"] | None,
    rehearsal: torch.Generator | None,
    condition: Condition,
) -> tuple[Float[Tensor, "1 f s c"], Float[Tensor, "p 1 f s c"] | None]:
    """A chunk's clean latents, generated or given, and what each denoising pass predicted of them. rehearsal: the noise of a chunk that is given,
    for policies that need such predictions of it too."""
    if given is None:
        guesses = denoised(backbone, window, draws, condition)
        return guesses[-1], guesses
    return given, rehearsed(backbone, window, rehearsal, given, condition) if rehearsal is not None else None


def rehearsed(
    backbone: Backbone, window: ContextBuffer, rng: torch.Generator, given: Float[Tensor, "1 f s c"], condition: Condition
) -> Float[Tensor, "p 1 f s c"]:
    """What the denoising passes would predict of a chunk that is given, each from its latents under the noise of that pass."""
    guesses = []
    for step, t in enumerate(backbone.timesteps):
        window.begin_pass(step, clean=False)
        guesses.append(backbone.denoise(backbone.renoise(given, t, backbone.noise(rng)), t, condition, window))
    return torch.stack(guesses)
