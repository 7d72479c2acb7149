"""The reference outputs in tests/golden, and the replay that compares a backbone of ours with them."""

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from harness.backbone import Backbone
from harness.cache.stores import GpuStore, Store
from harness.outcome import Rollout
from harness.policy import CachePolicy
from harness.rollout import rollout
from harness.trajectory import Trajectory

FOLDER = Path(__file__).parent / "golden"
SINK_RECENT = ("sink_recent", "policy.sink=3", "policy.recent=3")
RELEASE = ("worldkv_release", "policy.retrieved=6")
REBASED = ("worldkv_release_rebased", "policy.retrieved=6")
WHOLE = "policy/compressor=none"
PER_FRAME = "policy.compressor.budget=frame"
AT_RETRIEVAL = "policy.compress=retrieve"


@cache
def golden(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


@cache
def config(model: str) -> dict:
    return json.loads((FOLDER / model / "config.json").read_text())


def records(model: str) -> dict[str, dict]:
    return {r["name"]: r for r in config(model)["runs"]}


class RecordedCodec:
    """A codec that knows one latent: that of the recorded first image. Pictures play no part in the fixtures."""

    def __init__(self, latents: torch.Tensor) -> None:
        self.latents = latents

    def begin(self) -> None: ...
    def state(self) -> list:
        return []

    def restore(self, state: list) -> None: ...

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        assert pixels.shape[2] == 4 * (self.latents.shape[2] - 1) + 1
        return self.latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, 3, 4 * latents.shape[2], 8 * latents.shape[3], 8 * latents.shape[4])


def replay(backbone: Backbone, draws: list[torch.Tensor], policy: CachePolicy, trajectory: Trajectory, store: Store | None = None) -> Rollout:
    """Roll out with recorded noise: `draws` are what the generator would have given, in order."""
    queue = iter(draws)
    backbone.noise = lambda generator: next(queue).clone()  # pyright: ignore[reportAttributeAccessIssue]
    return rollout(backbone, policy, store or GpuStore(), trajectory, 0)


def rows(latents: torch.Tensor) -> torch.Tensor:
    """`c f y x` as the harness has it, `1 f s c`."""
    return latents.permute(1, 2, 3, 0).flatten(1, 2)[None]


def assert_close(mine: torch.Tensor, theirs: torch.Tensor, what: str = "") -> None:
    """The gate of the fixtures: max-abs 5e-5 and rms 5e-6; distinct modes differ by 4e-2 rms."""
    error = (mine - theirs).abs()
    assert error.max() <= 5e-5 and error.square().mean().sqrt() <= 5e-6, f"{what}: max {error.max():.1e}, rms {error.square().mean().sqrt():.1e}"
