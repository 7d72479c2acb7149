"""WorldKV as its authors released it: the blind chunk, the fallback, and its formula of selection."""

from tests.conftest import make_policy


def test_release_has_its_blind_chunk_and_fallback(roll):
    stats = roll(make_policy("worldkv_release")).stats
    assert [s.unreachable_frames for s in stats] == [0, 0, 0, 0] + [3] * (len(stats) - 4)
    assert stats[3].attended == tuple(range(9)), "attends to everything until a first candidate exists"
    assert not set(stats[5].attended) & {9, 10, 11}, "chunk c-2 is in neither set"


def test_release_selects_by_its_own_formula(roll, trajectory):
    """Selections of every chunk against the formula written out again in numpy (reference: worldkv 046f6d1)."""
    import numpy as np

    stats = roll(make_policy("worldkv_release", "policy.retrieved=6")).stats
    means = trajectory.c2w.numpy().reshape(-1, 3, 4, 4).mean(1)
    for s in stats[4:]:
        candidates = list(range(1, s.chunk - 2))
        t = np.array([((means[c][:3, 3] - means[s.chunk][:3, 3]) ** 2).sum() for c in candidates])
        a = np.array([np.arccos(np.clip((np.trace(means[c][:3, :3].T @ means[s.chunk][:3, :3]) - 1) / 2, -1, 1)) for c in candidates])
        d = sum(0.5 * x / x.max() if x.max() > 0 else 0 * x for x in (t, a))
        chosen = {f // 3 for f in s.retrieved}
        assert len(chosen) == min(2, len(candidates))
        if len(chosen) < len(candidates):
            worst = max(d[candidates.index(c)] for c in chosen)
            assert worst <= min(d[candidates.index(c)] for c in set(candidates) - chosen) + 1e-5
