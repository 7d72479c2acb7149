"""What scorers of future queries ask of a backbone: its rotation, and which channels are time's."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from harness.datatypes import Site
from harness.settings.build import build
from policies.parts.score.expected import ExpectedScorer
from policies.parts.score.future import mean_turn
from policies.parts.score.tri import time_pairs
from tests.conftest import CONF

SMALL = ["backbone.weights=random", "backbone.size=[64,96]", "backbone.sizes={dim: 32, heads: 2, layers: 1, ffn: 8, context_dim: 8}"]


def made(name):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return build(compose("config", [f"backbone={name}", *(SMALL if name != "rooms_tiny" else [])]).backbone, "backbone")


@pytest.mark.parametrize(
    ("name", "timely", "apart"), [("matrix_game2", range(8), 1), ("lingbot", range(8), 1), ("rooms_tiny", [*range(4), *range(16, 20)], 16)]
)
def test_time_and_its_pairs_are_found_in_any_rotation(name, timely, apart):
    """The Wan family rotates neighbours, 8 of a head's 16 channels by time; `rooms` channels half a head apart, 4 pairs of 16."""
    backbone = made(name)
    width = backbone.geometry.head_dim
    found, partner = time_pairs(Site(0, 0, True, 0, 0, positions=torch.zeros(1, 3), rope=backbone.rope), width)
    assert found.nonzero()[:, 0].tolist() == list(timely)
    for i in timely:
        assert partner[i] == (i ^ 1 if apart == 1 else (i + apart) % width)


@pytest.mark.parametrize("name", ["matrix_game2", "rooms_tiny"])
def test_the_mean_rotation_is_the_mean_of_rotations(name):
    backbone, rng = made(name), torch.Generator().manual_seed(0)
    width, positions = backbone.geometry.head_dim, torch.rand(5, 3, generator=torch.Generator().manual_seed(1)) * 3
    x = torch.randn(width, generator=rng)
    each = [backbone.rope(p[None])(x.expand(1, 1, 1, -1))[0, 0, 0] for p in positions]
    site = Site(0, 0, True, 0, 0, positions=positions, rope=backbone.rope)
    assert torch.allclose(x @ mean_turn(site, positions, width), torch.stack(each).mean(0), atol=1e-5)


def test_calls_without_raw_queries_are_refused(backbone):
    scorer, q = ExpectedScorer(), torch.zeros(1, 18, 2, 32)
    scorer.reset(backbone.geometry)
    with pytest.raises(ValueError, match="without un-rotated queries"):
        scorer.look(q, q, Site(0, 0, True, 0, 0))
