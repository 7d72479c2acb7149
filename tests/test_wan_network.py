"""The causal Wan transformer against an independent implementation: diffusers' Wan, one chunk that attends to itself."""

import re

import pytest
import torch
from diffusers import WanTransformer3DModel

from backbones import lingbot, self_forcing
from backbones.rope import rotate_adjacent, turn_by
from backbones.wan_network import WanConfig, WanNetwork, angles, fold, unfold
from harness.cache.attention import dense
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from tests.conftest import make_policy
from tests.test_wan_load import path

SIZES = dict(dim=60, heads=3, layers=2, ffn=72, context_dim=24)
NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("scale_shift_table", "modulation"),
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn1.", "self_attn."),
    ("attn2.", "cross_attn."),
    (".to_", "."),
    ("norm2", "norm3"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("proj_out", "head.head"),
)


def ours(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for theirs, mine in NAMES:
        name = name.replace(theirs, mine)
    return re.sub(r"^modulation$", "head.modulation", name)


def test_one_chunk_equals_diffusers():
    torch.manual_seed(0)
    theirs = WanTransformer3DModel(
        num_attention_heads=3, attention_head_dim=20, in_channels=16, out_channels=16, text_dim=24, freq_dim=32, ffn_dim=72, num_layers=2, cross_attn_norm=True
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    mine = WanNetwork(WanConfig(**SIZES, freq=32, in_dim=16))
    mine.load_state_dict({ours(k): v for k, v in theirs.state_dict().items()})
    latents, text = torch.randn(1, 16, 3, 8, 6), torch.randn(1, 12, 24)
    grid = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), torch.arange(3.0), indexing="ij")
    turn = turn_by(angles(torch.stack(grid, -1).flatten(0, 2), 20)[:, None])

    class Seam:
        def __call__(self, layer, q, k, v):
            return dense(rotate_adjacent(q, turn), rotate_adjacent(k, turn), v)

        def cross(self, layer, q, k, v):
            return dense(q, k, v)

    with torch.no_grad():
        for t in (999.0, 625.0, 0.0):
            out = mine(latents, mine.time(t, torch.device("cpu")), mine.cross(text), [lambda x: x] * 2, Seam())
            expected = theirs(latents, torch.tensor([t]), text, return_dict=False)[0]
            assert (out - expected).abs().max() < 5e-5


def test_fold_and_unfold_have_their_own_orders():
    x = torch.arange(2 * 16 * 2 * 4 * 6.0).view(2, 16, 2, 4, 6)
    tokens = fold(x)
    assert tokens.shape == (2, 12, 64)
    assert tokens[1, 7].view(16, 2, 2).equal(x[1, :, 1, 0:2, 2:4]), "channel, then row and column of the cell"
    back = unfold(tokens.view(2, 12, 16, 4).transpose(2, 3).flatten(2), (2, 4, 6))
    assert back.equal(x), "row and column, then channel"


@pytest.mark.parametrize(
    ("backbone", "chunk"),
    [
        (lambda: self_forcing.load("random", size=(64, 48), dtype="float32", device="cpu", sizes=SIZES), 3),
        (lambda: lingbot.load("random", size=(64, 48), dtype="float32", device="cpu", sizes=SIZES, indices=(0, 250, 500, 750), chunk=4), 4),
    ],
    ids=["self_forcing", "lingbot2"],
)
def test_relatives_roll_out(backbone, chunk):
    made = backbone()
    assert made.geometry.chunk == chunk
    out = rollout(made, make_policy("full"), GpuStore(), path(45), 0)
    assert len(out.latents) == 12 and torch.isfinite(out.latents).all()
    assert out.stats[-1].attended_rows == 12 * 12


def test_sizes_of_self_forcing():
    """Wan 2.1 1.3B: 825 tensors."""
    with torch.device("meta"):
        network = WanNetwork(self_forcing.PUBLISHED)
    assert len(network.state_dict()) == 825
    assert sum(v.numel() for v in network.state_dict().values()) / 1e9 == pytest.approx(1.419, abs=1e-3)
