"""LingBot-World-Fast against recorded outputs of the reference network: controls, network, and every cache mode as a policy."""

from functools import partial

import pytest
import torch
from torch import nn

from backbones.checkpoints import put
from backbones.lingbot import PUBLISHED, RAY_CHANNELS, LingBotBackbone, LingBotNetwork, schedule
from backbones.wan_network import WanConfig, angles
from backbones.wan_parallel import built
from harness.cache.context import ContextBuffer
from harness.cache.stores import GpuStore
from harness.system.ranks import ALONE, Ranks
from harness.trajectory import Trajectory
from tests.conftest import make_policy
from tests.replay import AT_RETRIEVAL, PER_FRAME, REBASED, RELEASE, SINK_RECENT, WHOLE, RecordedCodec, assert_close, config, golden, records, replay, rows

MODES = {
    "full": ("full",),
    "full_cap9": ("sliding", "policy.recent=6"),
    "sliding6": ("sliding", "policy.recent=3"),
    "default": SINK_RECENT,
    "retr6": (*RELEASE, WHOLE),
    "retr6_rope": (*REBASED, WHOLE),
    "retr6_rope_yaw": (*REBASED, WHOLE),
    "retr9_fb": (*RELEASE, "policy.retrieved=9", WHOLE),
    "retr6_runtime": (*RELEASE, PER_FRAME, AT_RETRIEVAL),
    "retr6_runtime_rot_rope": (*REBASED, PER_FRAME, AT_RETRIEVAL, "policy.compressor.ratio=0.3", "policy.compressor.rotate=true"),
    "retr6_store": (*RELEASE, PER_FRAME),
    "retr6_store_pooled": RELEASE,
    "retr6_store_pooled_rope": (*REBASED, "policy.compressor.ratio=0.3"),
    "act_default": SINK_RECENT,
    "act_retr6": (*RELEASE, WHOLE),
}
SIZE = (64, 48)


def make(variant: str = "cam", shift: float = 10.0, device: str = "cpu", dtype: torch.dtype = torch.float32, ranks: Ranks = ALONE) -> LingBotBackbone:
    c, where = config("lingbot")["config"], torch.device(device)
    sizes = WanConfig(c["dim"], c["num_heads"], c["num_layers"], c["ffn_dim"], c["text_dim"], c["freq_dim"], control="after_self", dtype=dtype)
    network, parts = built(partial(LingBotNetwork, sizes, RAY_CHANNELS[variant]), ranks, where)
    weights = golden("lingbot/weights")
    own = {k.removeprefix("act::"): v for k, v in weights.items() if k.startswith("act::")} if variant == "act" else {}
    weights = {k: v for k, v in weights.items() if not k.startswith("act::")} | own
    for name in parts.whole:
        value = weights[name].to(where, sizes.dtype_of(name))
        put(network, name, nn.Parameter(parts.held(name, value[parts.index(name)].clone()), requires_grad=False))
    inputs = golden("lingbot/inputs")
    codec = RecordedCodec(inputs["image_latent"][None])
    return LingBotBackbone(network, codec, lambda prompt: inputs["context"], schedule(shift), SIZE, where, variant, c["text_len"])


def path(name: str) -> Trajectory:
    inputs = golden("lingbot/inputs")
    intrinsics = inputs["intrinsics"] * torch.tensor([SIZE[1] / 832, SIZE[0] / 480] * 2)
    actions = torch.zeros(117, 6)
    actions[:, :4] = inputs["action_wasd"]
    return Trajectory(name, inputs[f"poses.{name}"], intrinsics.expand(117, 4), actions, torch.zeros(1, 3, *SIZE), ())


def draws() -> list[torch.Tensor]:
    inputs = golden("lingbot/inputs")
    chunks = [[inputs["noise"][:, 3 * c : 3 * c + 3], *inputs["renoise"][c]] for c in range(10)]
    return [rows(x) for chunk in chunks for x in chunk]


def test_every_run_is_replayed():
    assert MODES.keys() == records("lingbot").keys()


@pytest.mark.parametrize("name", MODES)
def test_run(name):
    """x0 of every chunk; the chunks that were retrieved, and how many of their rows."""
    record = records("lingbot")[name]
    backbone = make(record["control"], record["shift"])
    policy = make_policy(*MODES[name])
    out = replay(backbone, draws(), policy, path(record["trajectory"]))
    expected = rows(golden(f"lingbot/run_{name}")["x0"])[0]
    for c in range(10):
        assert_close(out.latents[3 * c : 3 * c + 3], expected[3 * c : 3 * c + 3], f"{name} chunk {c}")
    selected = {r["chunk"]: sorted(r["selected"]) for r in record["retrieval"]}
    assert {s.chunk: sorted({f // 3 for f in s.retrieved}) for s in out.stats if s.retrieved} == selected
    for s, retrieved in zip(out.stats, record["retrieved_tokens_per_chunk"], strict=True):
        if retrieved:  # the record counts rows before compression at retrieval; sink, recent and the chunk itself are whole
            shrinks = AT_RETRIEVAL in MODES[name]
            assert s.attended_rows < retrieved + 9 * 12 if shrinks else s.attended_rows == retrieved + 9 * 12


@pytest.mark.parametrize("name", ["full", "retr6_rope"])
def test_network_outputs_pass_by_pass(name, monkeypatch):
    flows = {k: v for k, v in golden(f"lingbot/run_{name}").items() if k.startswith("flow_steps")}
    assert flows
    seen: dict[int, list[torch.Tensor]] = {}
    backbone = make()
    inner = backbone.flow

    def spy(x, t, condition, kv):
        seen.setdefault(int(condition.positions[0, 0]) // 3, []).append(inner(x, t, condition, kv))
        return seen[int(condition.positions[0, 0]) // 3][-1]

    monkeypatch.setattr(backbone, "flow", spy)
    record = records("lingbot")[name]
    replay(backbone, draws(), make_policy(*MODES[name]), path(record["trajectory"]))
    assert [*backbone.timesteps, 0.0] == record["timesteps"]
    for key, expected in flows.items():
        for mine, theirs in zip(seen[int(key.removeprefix("flow_steps.chunk"))], expected, strict=True):
            assert_close(mine, rows(theirs), key)


def test_window_holds_the_recorded_rows(monkeypatch):
    """What lies in the window at the end, row by row; the frames that the next chunk would not see are gone here."""
    banks = []
    inner = ContextBuffer.__init__

    def spy(self, *arguments, **named):
        inner(self, *arguments, **named)
        banks.append(self)

    monkeypatch.setattr(ContextBuffer, "__init__", spy)
    run = golden("lingbot/run_default")
    replay(make(), draws(), make_policy(*MODES["default"]), path("walk_loop"))
    window = banks[-1]
    frames, at = [0, 1, 2, 27, 28, 29], [*range(36), *range(72, 108)]
    for layer in range(3):
        mine = [window.get(f) for f in frames]
        assert_close(torch.cat([p.k[layer] for p in mine], 1), run[f"final_cache.layer{layer}.k"][:, at])
        assert_close(torch.cat([p.v[layer] for p in mine], 1), run[f"final_cache.layer{layer}.v"][:, at])


@pytest.mark.parametrize("name", ["retr6_store", "retr6_store_pooled"])
def test_compressed_chunk_is_the_recorded_one(name):
    store = GpuStore()
    record = records("lingbot")[name]
    replay(make(), draws(), make_policy(*MODES[name]), path(record["trajectory"]), store)
    run = golden(f"lingbot/run_{name}")
    pages = [store.get(f) for f in (3, 4, 5) if f in store.frames()]
    for layer in range(3):
        assert_close(torch.cat([p.k[layer] for p in pages], 1), run[f"bank.chunk1.layer{layer}.k"])
        assert_close(torch.cat([p.v[layer] for p in pages], 1), run[f"bank.chunk1.layer{layer}.v"])


def test_ray_maps_and_image_condition():
    inputs = golden("lingbot/inputs")
    cam, act = make().ray_maps(path("walk_loop")), make("act").ray_maps(path("walk_loop"))
    for mine, name, chunk in ((cam, "control_cam.chunk0", 0), (cam, "control_cam.chunk4", 4), (act, "control_act.chunk1", 1)):
        assert (mine[:, 3 * chunk : 3 * chunk + 3] - inputs[name][0]).abs().max() < 1e-6, name
    backbone, trajectory = make(), path("walk_loop")
    condition = backbone.image_condition(trajectory, backbone.latent_frames(trajectory))
    for chunk in (0, 1):
        assert torch.equal(condition[:, 3 * chunk : 3 * chunk + 3], inputs[f"y.chunk{chunk}"])


def test_schedule_looks_up_twice():
    """The published constants; a table that is looked up once is 9e-4 rms away in x0."""
    s = schedule()
    assert s.timesteps == (999.0, 978.0, 947.0, 825.0)
    assert s.sigma_x0 == pytest.approx((0.99989992, 0.97897100, 0.94790888, 0.82585257), abs=1e-8)
    assert s.sigma_renoise[1:] == pytest.approx((0.97882956, 0.94769305, 0.82519257), abs=1e-8)
    assert schedule(5.0).timesteps == (999.0, 957.0, 899.0, 702.0)
    assert schedule(indices=(0, 250, 500, 750)).timesteps == (999.0, 967.0, 908.0, 768.0)


def test_rope_splits_channels_unevenly_and_has_no_last_frame():
    assert [a.shape[-1] for a in (angles(torch.zeros(1, 3), 128), angles(torch.zeros(1, 3), 20))] == [64, 10]
    far = angles(torch.tensor([[5000.0, 0, 0], [5000.0, 0, 1]]), 128)
    assert far[0, 0] == 5000 and far[0, 1] == pytest.approx(5000 * 10000 ** (-2 / 44))
    assert far[1, 43] == 1 and far[0, 43] == 0


def test_camera_scale_is_one_for_the_longest_step():
    """Translations are relative to the previous latent frame and scaled by the rollout's largest step."""
    maps = make().ray_maps(path("forward_back"))
    origins = maps.unflatten(0, (6, 64))[:3, 0, :, 0, 0]
    assert origins[:, 0].abs().max() == 0
    assert origins.norm(dim=0).max() == pytest.approx(1.0, abs=1e-6)


def test_sizes_of_the_published_network():
    """1,421 tensors and 18.544 B parameters, of which 4.255 B are camera control, on the meta device."""
    with torch.device("meta"):
        network = LingBotNetwork(PUBLISHED, RAY_CHANNELS["cam"])
    sizes = {k: v.numel() for k, v in network.state_dict().items()}
    assert len(sizes) == 1421
    assert sum(sizes.values()) / 1e9 == pytest.approx(18.544, abs=5e-4)
    assert sum(n for k, n in sizes.items() if "cam" in k or "c2ws" in k) / 1e9 == pytest.approx(4.255, abs=5e-4)
