"""backbone.compile changes how the network runs, not what it says."""

import shutil

import pytest
import torch

from backbones.rooms import RoomsBackbone
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from tests.conftest import make_policy, make_world
from tests.tolerances import COMPILED

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def test_a_compiled_network_says_the_same():
    """Several generated chunks with retrieval: errors of one would show in the next."""
    trajectory = make_world(["R90L90"], size=(64, 64), degrees=15.0).trajectory(0)
    plain, compiled = (RoomsBackbone(device="cpu", compile=compile) for compile in (False, True))
    given = plain.encode(trajectory.images)[:3]
    a, b = (rollout(backbone, make_policy("worldkv"), GpuStore(), trajectory, 0, given) for backbone in (plain, compiled))
    assert a.generated.sum() >= 6 and any(s.retrieved for s in a.stats)
    assert torch.allclose(a.frames, b.frames, rtol=0, atol=COMPILED)
    assert compiled.network.state_dict().keys() != plain.network.state_dict().keys(), "the compiled blocks are there"
