"""Matrix-Game-2.0 against recorded outputs of the reference network, with the windows of WorldKV put around it as policies."""

from functools import partial

import pytest
import torch
from torch import nn

from backbones.checkpoints import put
from backbones.matrix_game2 import PUBLISHED, ActionCache, ActionConfig, MatrixGame2Backbone, MatrixGame2Network, history, schedule
from backbones.wan_network import WanConfig
from backbones.wan_parallel import built
from harness.system.ranks import ALONE, Ranks
from harness.trajectory import Trajectory
from tests.conftest import make_policy
from tests.replay import AT_RETRIEVAL, PER_FRAME, REBASED, RELEASE, SINK_RECENT, WHOLE, RecordedCodec, assert_close, config, golden, records, replay, rows

MODES = {
    "local6": ("sliding", "policy.recent=3"),
    "local4": ("sliding", "policy.recent=1"),  # the window of gta_drive cuts a chunk in half
    "full30": ("full",),
    "local9_sink3": SINK_RECENT,
    "templerun_local6": ("sliding", "policy.recent=3"),
    "derived_default": SINK_RECENT,
    "derived_retr6": (*RELEASE, WHOLE),
    "derived_retr6_rope": (*REBASED, WHOLE),
    "derived_retr6_runtime": (*RELEASE, PER_FRAME, AT_RETRIEVAL),
    "derived_retr6_store": (*RELEASE, PER_FRAME),
    "derived_retr6_store_pooled_rope": (*REBASED, "policy.compressor.ratio=0.3"),
}


def make(variant: str, steps: tuple[int, ...] = (1000, 666, 333), window: int = 6, ranks: Ranks = ALONE) -> MatrixGame2Backbone:
    c = config("matrixgame2")["variants"][variant]
    a, inputs = c["action_config"], golden("matrixgame2/inputs")
    sizes = WanConfig(
        c["dim"], c["num_heads"], c["num_layers"], c["ffn_dim"], config("matrixgame2")["img_emb_in"], c["freq_dim"], context="image", control="after_cross"
    )
    mouse = 2 if a["enable_mouse"] else 0
    action = ActionConfig(len(a["blocks"]), a["keyboard_dim_in"], mouse, a["heads_num"], 64, a["hidden_size"], a.get("mouse_hidden_dim", 0))
    network, parts = built(partial(MatrixGame2Network, sizes, action), ranks, torch.device("cpu"))
    weights = golden(f"matrixgame2/weights_{variant}")
    for name in parts.whole:
        put(network, name, nn.Parameter(parts.held(name, weights[name][parts.index(name)].clone()), requires_grad=False))
    codec = RecordedCodec(inputs["cond_concat"][:, 4:])
    keys = inputs[f"keyboard_cond.{variant}"][0]
    made = MatrixGame2Backbone(
        network, codec, lambda image: inputs["visual_context"], lambda actions: keys, schedule(steps), (64, 48), torch.device("cpu"), window, 1.0
    )
    return made


def path(name: str | None) -> Trajectory:
    inputs = golden("matrixgame2/inputs")
    c2w, actions = torch.eye(4).repeat(117, 1, 1), torch.zeros(117, 6)
    if name:
        c2w[::4] = inputs[f"poses_latent.{name}"]
    actions[:, [5, 4]] = inputs["mouse_cond"][0]
    return Trajectory(name or "still", c2w, torch.ones(117, 4), actions, torch.zeros(1, 3, 64, 48), ())


def draws(steps: int) -> list[torch.Tensor]:
    """The reference draws fresh noise with frames first."""
    inputs = golden("matrixgame2/inputs")
    renoise = inputs[f"renoise.{steps}step"]
    chunks = [[rows(inputs["noise"][0, :, 3 * c : 3 * c + 3]), *renoise[c].permute(0, 1, 3, 4, 2).flatten(2, 3)[:, None]] for c in range(10)]
    return [x for chunk in chunks for x in chunk]


def run(name: str, ranks: Ranks = ALONE) -> tuple[MatrixGame2Backbone, torch.Tensor]:
    record = records("matrixgame2")[name]
    backbone = make(record["weights"], record["steps"], record["action_cache_frames"], ranks)
    out = replay(backbone, draws(len(record["steps"])), make_policy(*MODES[name]), path(record["trajectory"]))
    selected = {r["chunk"]: sorted(r["selected"]) for r in record["retrieval"]}
    assert {s.chunk: sorted({f // 3 for f in s.retrieved}) for s in out.stats if s.retrieved} == selected
    return backbone, out.latents


def test_every_run_is_replayed():
    assert MODES.keys() == records("matrixgame2").keys()


@pytest.mark.parametrize("name", MODES)
def test_run(name):
    backbone, latents = run(name)
    expected = rows(golden(f"matrixgame2/run_{name}")["x0"])[0]
    for c in range(10):
        assert_close(latents[3 * c : 3 * c + 3], expected[3 * c : 3 * c + 3], f"{name} chunk {c}")
    assert backbone.timesteps == pytest.approx(records("matrixgame2")[name]["warped_timesteps"], abs=1e-4)


def test_action_caches_hold_the_recorded_rows():
    """Mouse: the frames that the next chunk will see. Keyboard: computed from the keys, for all frames in reach."""
    backbone, _ = run("local6")
    recorded = golden("matrixgame2/run_local6")
    k, v = backbone.cache._past[1]
    assert_close(k, recorded["final_cache_mouse.layer1.k"][:, -3:])
    assert_close(v, recorded["final_cache_mouse.layer1.v"][:, -3:])
    from backbones.actions import rotation

    frames = torch.arange(24, 30)
    k, v = backbone.actions[1].keyboard_kv(history(backbone.buttons(torch.zeros(117, 6)), frames), rotation(frames))
    assert_close(k, recorded["final_cache_keyboard.layer1.k"])
    assert_close(v, recorded["final_cache_keyboard.layer1.v"])
    assert backbone.cache.nbytes == 2 * 2 * 12 * 3 * 2 * 64 * 4, "two blocks, keys and values, 12 places, 3 frames, 2 heads of 64 in float32"


def test_state_ends_with_the_rollout():
    backbone, first = run("local6")
    record = records("matrixgame2")["local6"]
    again = replay(backbone, draws(3), make_policy(*MODES["local6"]), path(record["trajectory"]))
    assert torch.equal(again.latents, first)
    assert again.stats[-1].state_bytes > backbone.cache.nbytes > 0


def test_a_window_of_one_chunk_remembers_nothing():
    cache = ActionCache(3, 3)
    cache.remember(0, torch.ones(2, 3, 1, 4), torch.ones(2, 3, 1, 4))
    cache.keep()
    assert cache.nbytes == 0 and cache.remember(0, torch.zeros(2, 3, 1, 4), torch.zeros(2, 3, 1, 4))[0].shape[1] == 3
    with pytest.raises(ValueError, match="less than a chunk"):
        make("universal", window=2)


def test_action_windows_end_before_the_frame():
    """Frame 0 sees the first action twelve times; frame 3 sees video frames 0 to 11, not its own 12."""
    actions = torch.arange(40.0)[:, None]
    assert history(actions, torch.tensor([0, 1, 3]))[..., 0].tolist() == [[0.0] * 12, [0.0] * 8 + [0, 1, 2, 3], list(map(float, range(12)))]


def test_schedule_is_warped():
    s = schedule()
    assert s.timesteps == pytest.approx((1000, 908.8427, 713.9794), abs=1e-3)
    assert schedule((1000, 750, 500, 250)).timesteps == pytest.approx((1000, 937.5, 833.3333, 625), abs=1e-3)
    assert s.sigma_x0 == s.sigma_renoise == pytest.approx([t / 1000 for t in s.timesteps], abs=1e-6)


@pytest.mark.parametrize(("variant", "tensors", "billions"), [("universal", 1114, 1.619), ("gta_drive", 1114, 1.619), ("templerun", 964, 1.509)])
def test_sizes_of_the_published_networks(variant, tensors, billions):
    with torch.device("meta"):
        network = MatrixGame2Network(*PUBLISHED[variant])
    assert len(network.state_dict()) == tensors
    assert sum(v.numel() for v in network.state_dict().values()) / 1e9 == pytest.approx(billions, abs=5e-4)
