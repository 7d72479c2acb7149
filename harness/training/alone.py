"""A first stage for arms that add weights: these learn alone, while the network stays the base's."""

import torch
from torch import nn

from harness.training.arm import ArmTraining


class MemoryTraining(ArmTraining):
    """As `ArmTraining` within the policy's windows, in true contexts, but for the memory's own weights alone: the network is frozen meanwhile.

    Beside a network that learns at once, the gates of `recurrent` closed before its states said anything (docs/trained.md).
    """

    def learned(self) -> dict[str, nn.Parameter]:
        return self.added()

    def configure_optimizers(self):
        self.peaks = ([self.lr_memory],)
        return [torch.optim.AdamW(self.learned().values(), lr=self.lr_memory, betas=(0.9, 0.98), weight_decay=0.0)]
