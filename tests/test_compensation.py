"""RazorAttention's compensation row: what heads attend to, from every row that was ever made, in float64."""

import pytest
import torch

from harness.policy import PolicyWrapper
from tests.conftest import make_policy


class Witness(PolicyWrapper):
    """Every row that was made, and what each clean pass asked and was answered."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.made, self.asked = {}, {}

    def attend(self, q, k, v, site):
        out = super().attend(q, k, v, site)
        if site.clean:
            self.asked[site.chunk, site.layer] = (q[0].double(), out[0].double())
        return out

    def commit(self, chunk, kv, bank):
        for i, f in enumerate(chunk.frames):
            part = slice(6 * i, 6 * i + 6)
            self.made[f] = (kv.k[:, 0, part].double(), kv.v[:, 0, part].double())
        super().commit(chunk, kv, bank)


@pytest.mark.parametrize("share", [0.5, 0.0])
def test_heads_attend_to_the_mean_of_what_they_lost(share, roll, backbone):
    inner = ["policy/compressor@policy.inner.compressor=none", "policy.inner.retrieved=9", "policy.labels=null", "policy.calibrate=1"]
    witness = Witness(make_policy("razor", *inner, f"policy.share={share}"))
    stats = roll(witness).stats
    far, g = witness.inner._far, backbone.geometry
    assert far.sum() == round(6 * share)
    lost_and_found = 0
    for s in stats[5:]:
        own = list(range(s.start, s.start + 3))
        for layer in range(g.layers):
            q, out = witness.asked[s.chunk, layer]
            for head in range(g.heads):
                old = [f for f in range(3, s.start - 3)]
                frames = [*s.attended, *own] if far[layer, head] else [0, 1, 2, *range(s.start - 3, s.start), *own]
                keys = torch.cat([witness.made[f][0][layer, :, head] for f in frames])
                values = torch.cat([witness.made[f][1][layer, :, head] for f in frames])
                mass = torch.ones(len(keys), dtype=torch.float64)
                if not far[layer, head]:
                    gone = [torch.cat([witness.made[f][i][layer, :, head] for f in old]) for i in (0, 1)]
                    keys, values = (torch.cat([x, one.mean(0, keepdim=True)]) for x, one in zip((keys, values), gone, strict=True))
                    mass = torch.cat([mass, torch.tensor([6.0 * len(old)], dtype=torch.float64)])
                    lost_and_found += 1
                weights = (q[:, head] @ keys.T / g.head_dim**0.5).exp() * mass
                assert torch.allclose(out[:, head], weights / weights.sum(1, keepdim=True) @ values, atol=1e-4), (s.chunk, layer, head)
    assert lost_and_found == (6 - far.sum()) * len(stats[5:])


def test_it_costs_a_row_and_a_copy_of_the_first_frame(roll, backbone):
    """Half of the heads are cut: one row more for them, and frame 0 in the bank besides the window, with its masses."""
    g = backbone.geometry
    inner = ["policy.share=0.5"]
    plain, razor = (roll(make_policy(name, *inner)).stats[-1] for name in ("heads", "razor"))
    assert razor.window_bytes == plain.window_bytes + g.row_bytes
    more = g.frame_bytes + g.row_bytes // 2 + g.layers * g.heads * 7 * (4 + 1)  # a mass and a mark a row and head
    assert razor.bank_bytes_gpu == plain.bank_bytes_gpu + more


def test_without_a_place_for_the_row_it_is_refused(roll):
    for overrides, message in (
        (["policy@policy.inner=worldkv_rebased"], "RetrievalPolicy places its rows anew"),
        (["policy.inner.sink=0", "policy.sink=0"], "sink=0 leaves no page"),
    ):
        with pytest.raises(ValueError, match=message):
            roll(make_policy("razor", *overrides))


def test_heads_that_lose_nothing_need_no_row(roll):
    assert torch.equal(roll(make_policy("razor", "policy.share=1.0")).latents, roll(make_policy("heads", "policy.share=1.0")).latents)
