"""One rollout over several ranks: the same pictures and the same choices as one process makes."""

from functools import partial

import pytest
import torch
from hydra import compose, initialize_config_dir

from backbones import lingbot, matrix_game2
from backbones.codecs import PreviewCodec
from backbones.lingbot import RAY_CHANNELS, LingBotNetwork
from backbones.matrix_game2 import MatrixGame2Network
from backbones.wan_attention import heads_each
from backbones.wan_parallel import built, codec_of, shared_images, shared_tokens
from harness.benchmark.ranks import H200, LINGBOT, share, table
from harness.cache.stores import GpuStore
from harness.datatypes import Geometry
from harness.evaluation.ranks import outer_rank
from harness.rollout import rollout
from harness.settings.build import build
from harness.system.ranks import joined
from harness.trajectory import Trajectory
from harness.worlds.poses import integrate, pinhole
from tests import test_lingbot, test_matrix_game2
from tests.conftest import CONF, ROOT, make_policy
from tests.ranked import on_ranks
from tests.replay import assert_close, golden, records, replay, rows
from tests.test_parallel_jobs import TOY
from tests.test_policies import MATRIX

GOLDEN = [("lingbot", name) for name in test_lingbot.MODES] + [("matrixgame2", name) for name in test_matrix_game2.MODES]
# policies without a golden run: two that decide from keys, one head by head, and one that encodes again; on the golden LingBot
OTHERS = ("worldkv", "tempcache", "h2o", "reencode")
Run = tuple[str, str]


def rolled(run: Run, ranks: int):
    """The rollout of a golden run, or of a policy on the golden LingBot, on this rank."""
    model, name = run
    if model == "matrixgame2":
        record = records(model)[name]
        backbone = test_matrix_game2.make(record["weights"], record["steps"], record["action_cache_frames"], joined(ranks))
        policy = make_policy(*test_matrix_game2.MODES[name])
        return replay(backbone, test_matrix_game2.draws(len(record["steps"])), policy, test_matrix_game2.path(record["trajectory"]))
    record = records("lingbot")[name if model == "lingbot" else "default"]
    backbone = test_lingbot.make(record["control"], record["shift"], ranks=joined(ranks))
    policy = make_policy(*(test_lingbot.MODES[name] if model == "lingbot" else (name,)))
    return replay(backbone, test_lingbot.draws(), policy, test_lingbot.path(record["trajectory"]))


def found(runs: list[Run], ranks: int) -> dict[Run, tuple[torch.Tensor, list]]:
    """Latents of each run, and what each chunk attended to."""
    outs = {run: rolled(run, ranks) for run in runs}
    return {run: (out.latents, [(s.attended, s.retrieved, s.taken, s.attended_rows) for s in out.stats]) for run, out in outs.items()}


def check(runs: list[Run], ranks: int) -> None:
    """Every rank has the reference's latents within the gate of the fixtures, and one process's choices."""
    alone = found(runs, 1)
    for parts in on_ranks(ranks, found, runs, ranks):
        for (model, name), (latents, chosen) in parts.items():
            theirs, choices = alone[model, name]
            expected = theirs if model == "other" else rows(golden(f"{model}/run_{name}")["x0"])[0]
            assert_close(latents, expected, f"{name} over {ranks} ranks")
            assert chosen == choices, f"{name}: {ranks} ranks choose other rows than one process"


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_make_what_one_process_makes(ranks):
    """Three heads over two and over four ranks: the last ones hold heads that the model does not have."""
    runs = [("lingbot", "retr6_store_pooled_rope"), ("matrixgame2", "derived_retr6"), ("other", "tempcache"), ("other", "h2o")]
    check(runs if ranks == 2 else runs[:1], ranks)


def shares(ranks: int) -> dict[str, float]:
    """Of the published networks, what this rank holds of the weights and of a frame's K/V; nothing is allocated."""
    found = {}
    for name, make, config in (
        ("lingbot", partial(LingBotNetwork, lingbot.PUBLISHED, RAY_CHANNELS["cam"]), lingbot.PUBLISHED),
        ("matrix_game2", partial(MatrixGame2Network, *matrix_game2.PUBLISHED["universal"]), matrix_game2.PUBLISHED["universal"][0]),
    ):
        _, parts = built(make, joined(ranks), torch.device("cpu"))
        whole = sum(x.numel() for x in parts.whole.values())
        found[name] = sum(map(parts.numel, parts.whole)) / whole
        found[f"{name} K/V"] = heads_each(config.heads, joined(ranks)) / config.heads
    return found


def test_a_rank_holds_its_share():
    """Of weights and of K/V 1/N, within 5 %."""
    for found in on_ranks(4, shares, 4):
        assert found == pytest.approx(dict.fromkeys(found, 1 / 4), rel=0.05)


def sums(ranks: int) -> tuple:
    """Five heads over two ranks, three on each: heads 0 to 2 hold 1, heads 3 and 4 hold 10, and what is beyond must not count."""
    g = Geometry(1, 3, 2, 4, 3, ranks=joined(ranks), model_heads=5)
    x = torch.full((2, 3), 1.0 if g.ranks.rank == 0 else 10.0)
    x[:, g.own_heads :] = 1e6
    number = torch.tensor([2.0 + g.ranks.rank])
    try:
        g.ranks.check_same(g.ranks.rank, "the plan")
        told = ""
    except RuntimeError as error:
        told = str(error)
    return g.own_heads, g.sum_over_heads(x, 1).tolist(), g.mean_over_heads(x, 1).tolist(), g.ranks.max(number).item(), g.ranks.first(number).item(), told


def from_rank_0(ranks: int) -> tuple:
    """Tokens that rank 0 alone can make, of a prompt and of an image; what the codec in its place makes of pictures; pictures that only rank 0 has."""
    here = joined(ranks)

    def make() -> torch.Tensor:
        assert here.rank == 0, "asked of a rank that has no encoder"
        return torch.arange(6.0).view(2, 3).to(torch.bfloat16)

    device = torch.device("cpu")
    images = shared_images(lambda: lambda image: image[None] + make(), here, device)
    codec = codec_of(PreviewCodec, here)
    codec.begin()
    latents = codec.encode(torch.full((1, 3, 9, 32, 48), 0.25))
    decoded = [tuple(codec.decode(latents).shape), tuple(codec.decode(latents).shape)]
    return shared_tokens(make, here, device), images(torch.ones(2, 3)), tuple(latents.shape), decoded, type(codec).__name__


def test_what_rank_0_alone_has():
    first, second = on_ranks(2, from_rank_0, 2)
    assert torch.equal(first[0], second[0]) and torch.equal(first[0], torch.arange(6.0).view(2, 3))
    assert torch.equal(first[1], second[1]) and first[1].shape == (1, 2, 3)
    assert first[2:4] == second[2:4] and (first[4], second[4]) == ("PreviewCodec", "SilentCodec")


def test_who_starts_the_ranks(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    assert outer_rank(2) is None
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert outer_rank(2) is None, "a batch script for two tasks has started none yet"
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert (outer_rank(2), outer_rank(4), outer_rank(1)) == (0, None, None)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert (outer_rank(4), outer_rank(2)) == (3, 0)


def test_what_ranks_tell_one_another():
    first, second = on_ranks(2, sums, 2)
    assert (first[0], second[0]) == (3, 2)
    assert first[1:] == second[1:], "the same on every rank"
    assert first[1:5] == ([23.0, 23.0], pytest.approx([4.6, 4.6]), 3.0, 2.0)
    assert first[5].startswith("the plan: the 2 ranks of this rollout disagree")


def test_the_page_holds_the_projection():
    assert table() in (ROOT / "docs" / "parallel.md").read_text()
    one, eight = (share(LINGBOT, H200, 87, ranks) for ranks in (1, 8))
    assert one.cache == 90 * 2 * 40 * 5120 * 1560 * 2 and one.traffic == 0, "bytes of K and V of 90 frames in bfloat16"
    assert eight.weights == one.weights / 8 and eight.cache == one.cache / 8


def every_policy(ranks: int) -> dict[str, tuple | str]:
    """Of every policy that needs neither a true surface nor other weights: latents and choices on a small random LingBot of 4 heads, or why not."""
    settings = [*TOY[:5], "backbone.sizes={dim: 48, heads: 4, layers: 2, ffn: 32, context_dim: 8}", f"backbone.parallel={ranks}"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        backbone = build(compose("config", settings).backbone, "backbone")
    actions = torch.zeros(117, 6)
    actions[1:, 0], actions[30:60, 4], actions[60:90, 4] = 1, 3.0, -3.0
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    path = Trajectory("walk", integrate(actions, 0.1), pinhole(80.0, (32, 32), 117), actions, image, (), metres=0.1)
    found: dict[str, tuple | str] = {}
    for name, *_ in MATRIX:
        if name.startswith(("oracle", "pointvotes", "trained")):
            continue
        try:
            out = rollout(backbone, make_policy(name), GpuStore(), path, 0)
            found[name] = (out.latents, [(s.attended, s.retrieved, s.taken, s.attended_rows, s.unreachable) for s in out.stats])
        except ValueError as error:
            found[name] = str(error)
    return found


def compare_policies(ranks: int) -> None:
    alone = every_policy(1)
    for parts in on_ranks(ranks, every_policy, ranks):
        for name, mine in parts.items():
            if isinstance(mine, str) or isinstance(alone[name], str):
                assert mine == alone[name] or "use backbone.parallel=1" in mine, (name, mine)
                print(f"{name}: {mine}", flush=True)
                continue
            error = float((mine[0] - alone[name][0]).abs().max() / alone[name][0].abs().max())
            assert error < 1e-5 and mine[1] == alone[name][1], (name, error)
            print(f"{name}: {error:.1e}, choices identical", flush=True)


if __name__ == "__main__":  # every policy, and all golden runs, over so many ranks: minutes
    import sys

    size = int(sys.argv[1])
    if "golden" not in sys.argv:
        compare_policies(size)
    runs = GOLDEN + [("other", name) for name in OTHERS]
    for run_ in runs:
        check([run_], size)
        print(f"{run_} over {size} ranks: within the gate, choices identical", flush=True)
