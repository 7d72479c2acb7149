"""Retrieval for several chunks to come: distances view by view, what a path tells of its future, and pages that are fetched early."""

import pytest
import torch

from harness.cache.disk import DiskStore
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from harness.session import Session
from harness.worlds.chunks import chunk_at, chunks_of, led_back
from harness.worlds.poses import angle
from tests.conftest import make_policy, make_world


@pytest.fixture(scope="module")
def wander():
    """Turns and walks of several lengths, and back."""
    return make_world(["WR60WL150R30SDR105WL60A"], degrees=15.0).trajectory(0)


def distance(here, past):
    """Of two lists of poses: for each of the first the nearest of the second, averaged."""
    each = []
    for a in here:
        each.append(min(float((a[:3, 3] - b[:3, 3]).norm()) + float(angle(a[:3, :3], b[:3, :3])) / 45 for b in past))
    return sum(each) / len(each)


@pytest.mark.parametrize("chunks", [1, 2, 9])
def test_it_orders_by_the_views_of_all_chunks_to_come(chunks, roll, backbone, wander):
    stats = roll(make_policy("lookahead", f"policy.selector.chunks={chunks}", "policy/compressor=none", "policy.retrieved=6"), path=wander).stats
    path, differ = chunks_of(wander, backbone.geometry), 0
    for s in stats[4:]:
        views = wander.c2w[s.start : min(s.start + 3 * (chunks + 1), 3 * len(stats))]
        worth = {c: round(distance(views, path[c].c2w), 5) for c in range(1, s.chunk - 1)}
        chosen = {f // 3 for f in s.retrieved}
        assert len(chosen) == 2
        left = [d for c, d in worth.items() if c not in chosen]
        assert not left or max(worth[c] for c in chosen) <= min(left) + 2e-5
        differ += chosen != set(sorted(worth, key=lambda c: (round(distance(path[s.chunk].c2w, path[c].c2w), 5), c))[:2])
    assert differ, "looking ahead changes nothing on this path"


def test_a_chunk_tells_of_its_path_and_of_no_probe(backbone, trajectory):
    g = backbone.geometry
    chunk = chunk_at(trajectory, g, 4)
    longer = chunk.ahead(2)
    assert torch.equal(longer.c2w, trajectory.c2w[12:21]) and longer.frames == tuple(range(12, 21)) and longer.ahead is None
    assert longer.overlap is None and longer.surface is None, "nothing of the truth of what comes"
    assert len(chunk_at(trajectory, g, 10).ahead(3).c2w) == 3, "the path ends"
    seen = []
    policy = make_policy("lookahead")
    made = policy.plan
    policy.plan = lambda chunk, bank: (seen.append((chunk.index, len(chunk.ahead(9).c2w))), made(chunk, bank))[1]  # type: ignore[method-assign]
    session = Session.begin(backbone, policy, GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:3])
    for _ in range(5):
        session.step()
    probe = session.fork()
    assert torch.equal(chunk_at(session.path, g, 5).ahead(5).c2w, trajectory.c2w[15:33]), "before the probe the path alone is known"
    probe.revisit([0, 1, 2])
    assert seen[-1] == (5, 3), "in the fork nothing follows the probe"
    assert len(chunk_at(led_back(trajectory, g, 5, [0, 1, 2]), g, 5).ahead(5).c2w) == 3
    session.step()
    assert torch.equal(session.path.c2w, trajectory.c2w)


def test_a_camera_that_is_led_by_hand_is_worldkv(backbone, trajectory):
    def led(policy):
        session = Session.begin(backbone, policy, GpuStore(), trajectory, 0, backbone.encode(trajectory.images)[:3])
        session.step()
        for i in range(1, 11):
            session.step(c2w=trajectory.c2w[3 * i : 3 * i + 3], actions=trajectory.actions[3 * i : 3 * i + 3])
        return session.rollout().latents

    assert torch.equal(led(make_policy("lookahead")), led(make_policy("worldkv")))


class Noted(DiskStore):
    """Which pages were to come, and which were asked for, plan by plan."""

    def reset(self, device):
        super().reset(device)
        self.coming, self.fetched = [], []

    def ahead(self, frames):
        self.coming.append(list(frames))
        self.fetched.append([])
        super().ahead(frames)

    def fetch(self, frame):
        if self.fetched:
            self.fetched[-1].append(frame)
        return super().fetch(frame)


def test_pages_of_later_chunks_are_fetched_early_and_nothing_changes(backbone, wander, tmp_path):
    forced = backbone.encode(wander.images)[:3]
    plain = rollout(backbone, make_policy("lookahead", "policy.retrieved=4"), GpuStore(), wander, 0, forced)
    store = Noted(folder=str(tmp_path))
    noted = rollout(backbone, make_policy("lookahead", "policy.retrieved=4"), store, wander, 0, forced)
    assert torch.equal(plain.latents, noted.latents)
    early = [set(coming) - set(stats.attended) for coming, stats in zip(store.coming, noted.stats, strict=True)]
    assert any(early), "no page of a later chunk was fetched"
    wanted = [frames & set().union(*(set(s.retrieved) for s in noted.stats[i + 1 : i + 4])) for i, frames in enumerate(early)]
    assert sum(map(len, wanted)) >= sum(map(len, early)) / 2, "what is fetched early is mostly wanted within the next chunks"
    for coming, fetched in zip(store.coming, store.fetched, strict=True):
        assert set(fetched) <= set(coming), "a page had to be waited for"
    store.close()


def test_true_co_visibility_is_not_known_ahead(roll):
    with pytest.raises(ValueError, match="what OracleSelector looks at is not known ahead; use another selector.inner"):
        roll(make_policy("lookahead", "policy/selector@policy.selector.inner=oracle"))
