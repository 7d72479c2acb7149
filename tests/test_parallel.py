"""One rollout over several ranks: the same pictures and the same choices as one process makes."""

import pytest
import torch

from harness.system.ranks import joined
from tests import test_lingbot, test_matrix_game2
from tests.conftest import make_policy
from tests.ranked import on_ranks
from tests.replay import assert_close, golden, records, replay, rows

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
        for run, (latents, chosen) in parts.items():
            model, name = run
            expected = alone[run][0] if model == "other" else rows(golden(f"{model}/run_{name}")["x0"])[0]
            assert_close(latents, expected, f"{run} over {ranks} ranks")
            assert chosen == alone[run][1], f"{run}: {ranks} ranks choose other rows than one process"


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_make_what_one_process_makes(ranks):
    """Three heads over two and over four ranks: the last ones hold heads that the model does not have."""
    check([("lingbot", "retr6_store_pooled_rope"), ("matrixgame2", "derived_retr6"), ("other", "h2o")][: 3 if ranks == 2 else 1], ranks)


if __name__ == "__main__":  # all golden runs: minutes
    import sys

    check(GOLDEN + [("other", name) for name in OTHERS], int(sys.argv[1]))
    print(f"{len(GOLDEN)} golden runs and {len(OTHERS)} policies over {sys.argv[1]} ranks: within the gate, choices identical")
