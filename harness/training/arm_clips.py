"""Training clips as a session would see them, and palindromes: a clip that goes back the way it came."""

import torch

from harness.training.clips import Clip, Clips, Phase, Scenery
from harness.training.walks import CHUNK
from harness.worlds.poses import relative

APART = 2 * 10**9  # from the seeds of scenes, whose first draw says whether they are houses; generators take 32 bits of a seed


def as_session(clip: Clip) -> Clip:
    """Time goes on frame by frame, whatever the walk left out in between, and poses refer to the first: a policy makes the holes."""
    return clip._replace(times=torch.arange(len(clip.times), dtype=torch.float32), c2w=relative(clip.c2w, clip.c2w[0]))


def palindrome(clip: Clip) -> Clip:
    """The first half of a clip's chunks, and these backwards, frame by frame; of an odd number the middle chunk stands alone."""
    chunks = len(clip.times) // CHUNK
    half = torch.arange(chunks // 2 * CHUNK)
    middle = torch.arange(chunks // 2 * CHUNK, (chunks + 1) // 2 * CHUNK)
    shown = torch.cat([half, middle, half.flip(0)])
    return clip._replace(frames=clip.frames[shown], c2w=clip.c2w[shown], intrinsics=clip.intrinsics[shown])


def goes_back(seed: int, share: float) -> bool:
    """Whether the clip of a seed becomes a palindrome."""
    return bool(torch.rand(1, generator=torch.Generator().manual_seed(seed + APART)) < share)


class SessionClips(Clips):
    """Clips of an arm's training. palindromes: their share; which clips those are depends on the clip's seed alone."""

    def __init__(self, seeds: range, unique: int, phases: list[Phase], scenery: Scenery, palindromes: float) -> None:
        super().__init__(seeds, unique, phases, scenery)
        self.palindromes = palindromes

    def __getitem__(self, key: tuple[int, int]) -> Clip:
        clip = as_session(super().__getitem__(key))
        return palindrome(clip) if goes_back(self.seeds[key[1] % self.unique], self.palindromes) else clip
