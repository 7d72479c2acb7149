"""The settings of a training (conf/experiment/train_rooms.yaml): what each may be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from backbones.rooms_arms import TRAINED
from harness.policy import CachePolicy
from harness.settings.ranges import Count, Ge, Gt, Le, Len, Natural, Positive, Rule, Seed, Share, Weight
from harness.training.clips import Phase, Scenery
from harness.training.codec import Terms

Steps = Annotated[Count, Le(10**8)]
Scenes = Annotated[Count, Le(10**6)]  # of one seed
Width = Annotated[Count, Le(8192)]


@dataclass(frozen=True)
class CodecStage:
    """The codec and its training. phases may be empty: then the codec of `start` stays."""

    channels: Annotated[Count, Le(1024)]
    width: Width
    blocks: Annotated[Count, Le(100)]
    lr: Positive
    frozen: bool
    unique: Scenes
    validate_every: Steps
    validation: Phase
    phases: Sequence[Phase]


@dataclass(frozen=True)
class Network:
    """Sizes of the denoiser."""

    width: Width
    layers: Annotated[Count, Le(1000)]
    heads: Annotated[Count, Le(1024)]
    mlp: Annotated[Count, Le(64)]

    def __post_init__(self) -> None:
        if self.width != 32 * self.heads:
            raise ValueError(f"network.width={self.width}, network.heads={self.heads}: a head has 32 channels, so use network.width={32 * self.heads}")


@dataclass(frozen=True)
class DenoiserStage:
    """The denoiser's training."""

    levels: Annotated[Sequence[Annotated[float, Gt(0), Le(1)]], Len(1)]
    level_weights: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)]
    context_noise: Weight
    warmup: Natural
    decay: Share
    lr_muon: Weight
    lr_adam: Weight
    ema: Share
    unique: Scenes
    validate_every: Steps
    validation: Phase
    rounds: Natural
    phases: Sequence[Phase]

    def __post_init__(self) -> None:
        if len(self.levels) != len(self.level_weights):
            raise ValueError(f"denoiser.levels has {len(self.levels)} noise levels, denoiser.level_weights {len(self.level_weights)}; give one weight a level")


@dataclass(frozen=True)
class FirstStage:
    """What is trained before an arm: the depth head that `geometry` needs, and an arm's own weights on the base as it is."""

    lr: Positive
    unique: Scenes
    validate_every: Steps
    validation: Phase
    phases: Annotated[Sequence[Phase], Len(1)]


@dataclass(frozen=True)
class ArmStage:
    """An arm: `denoiser` holds its training. policy: which it is trained for. share: of the clips whose windows the policy makes; in the others a
    chunk sees its whole past. own: of the context's chunks that are the model's own predictions at the end. palindromes: share of the clips.
    lr_memory: learning rate of the weights that the arm adds. depth: of `geometry`. alone: of arms that add weights."""

    name: Annotated[str, Rule(lambda name: name in TRAINED, " or ".join(TRAINED))]
    policy: CachePolicy
    share: Share
    own: Share
    palindromes: Share
    lr_memory: Positive
    depth: FirstStage
    alone: FirstStage


@dataclass(frozen=True)
class Recall:
    """gaps: chunks since the first visit. scenes: rooms and as many houses."""

    gaps: Annotated[Sequence[Annotated[int, Ge(1), Le(1000)]], Len(1)]
    scenes: Annotated[Count, Le(1000)]


@dataclass(frozen=True)
class TrainSettings:
    """All of them."""

    out: str
    start: str | None
    seed: Annotated[Seed, Le(99)]  # scenes of a seed are a million of the hundred million of the split
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "bf16-mixed", "32-true"]
    compile: bool
    threads: Annotated[int, Ge(1), Le(512)] | None
    workers: Annotated[int, Ge(0), Le(256)]
    checkpoint_steps: Steps
    logger: Literal["csv", "wandb"]
    world: Scenery
    terms: Terms
    codec: CodecStage
    samples: Any  # a world, checked by its own class
    recall: Recall
    network: Network
    denoiser: DenoiserStage
    arm: ArmStage | None
    budget: Any  # the windows of an arm's policy
