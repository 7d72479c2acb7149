"""A policy whose backbone was trained on for it."""

from dataclasses import dataclass
from typing import Annotated

from harness.policy import CachePolicy, PolicyWrapper
from harness.settings.ranges import Rule

Arm = Annotated[str, Rule(lambda text: text.isidentifier(), "the name of an arm, such as retrieved")]


@dataclass
class TrainedPolicy(PolicyWrapper):
    """Any policy on weights that were trained for it: the setting `backbone.arm` follows `arm`, and a backbone without such weights is refused.

    What is remembered, chosen and attended to is the inner policy's; the weights expect it, since the windows of their training were
    planned by it. What an arm keeps besides K/V belongs to the backbone and counts as its state. The page
    on trained memories says which published systems the arms stand for.
    """

    inner: CachePolicy
    arm: Arm
