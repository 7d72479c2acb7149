"""The Wan family on a GPU: bfloat16 against the float32 fixtures, no waiting inside a chunk, compilation. Skipped without CUDA."""

import pytest
import torch

from harness.cache.stores import GpuStore, PinnedStore
from harness.policy import PolicyWrapper
from harness.rollout import rollout
from tests.conftest import make_policy
from tests.replay import golden, records, replay, rows
from tests.test_lingbot import MODES, draws, make, path

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
RMS_BF16 = 2e-2  # distinct modes differ by 4e-2; single tokens flip in compression


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize(("dtype", "rms"), [(torch.float32, 1e-4), (torch.bfloat16, RMS_BF16)])
def test_run(name, dtype, rms):
    record = records("lingbot")[name]
    backbone = make(record["control"], record["shift"], "cuda", dtype)
    on_gpu = [x.cuda() for x in draws()]
    outs = [replay(backbone, on_gpu, make_policy(*MODES[name]), path(record["trajectory"]), store) for store in (GpuStore(), PinnedStore())]
    assert torch.equal(outs[0].latents, outs[1].latents), "tiers change nothing"
    error = outs[0].latents - rows(golden(f"lingbot/run_{name}")["x0"])[0]
    assert error.square().mean().sqrt() <= rms


class Watched(PolicyWrapper):
    """Any wait for the GPU between a chunk's first attention and its commit is an error."""

    def __init__(self, inner):
        self.inner = inner

    def attend(self, q, k, v, site):
        torch.cuda.set_sync_debug_mode("error")
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        torch.cuda.set_sync_debug_mode("default")
        super().commit(chunk, kv, bank)


@pytest.mark.parametrize("name", ["full", "sliding", "worldkv", "worldkv_rebased"])
def test_nothing_waits_inside_a_chunk(name):
    trajectory = path("walk_loop")
    try:
        rollout(make(device="cuda"), Watched(make_policy(name)), GpuStore(), trajectory, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_blocks_compile():
    backbone, trajectory = make(device="cuda"), path("walk_loop")
    eager = rollout(backbone, make_policy("sliding"), GpuStore(), trajectory, 0)
    for block in backbone.network.blocks:
        block.compile(dynamic=True)
    compiled = rollout(backbone, make_policy("sliding"), GpuStore(), trajectory, 0)
    assert (compiled.latents - eager.latents).abs().max() < 1e-3
