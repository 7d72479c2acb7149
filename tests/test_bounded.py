"""Bounded memories against second routes: places, banks of a fixed number and landmarks written out again."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from harness.cache.stores import PinnedStore
from harness.settings.command_line import check_overrides, label_of
from metrics.cost import held
from tests.conftest import CONF, make_policy, make_world
from tests.diary import Diary, wandering


@pytest.fixture(scope="module")
def loops():
    """Three rounds through the same room: 8 views of 45 degrees, 24 chunks after the first."""
    return make_world(["R90R90R90R90"], repeat=3).trajectory(0)


@pytest.fixture(scope="module")
def wander():
    return wandering()


def shares(path, points=8, shells=4, near=0.5, far=8.0):
    """Which share of each view's probe points each other view sees, in float64, through inverse matrices and pixel coordinates."""
    c2w, intrinsics = path.c2w.double().numpy(), path.intrinsics.double().numpy()
    w2c, (fx, fy, cx, cy) = np.linalg.inv(c2w), intrinsics[0]
    px, py = np.meshgrid((np.arange(points) + 0.5) / points * 2 * cx, (np.arange(points) + 0.5) / points * 2 * cy)
    probes = []
    for s in range(shells):
        z = near * (far / near) ** ((s + 0.5) / shells)
        probes.append(np.stack([(px - cx) / fx * z, (py - cy) / fy * z, np.full_like(px, z), np.ones_like(px)]).reshape(4, -1))
    probes = np.concatenate(probes, 1)
    out = np.empty((len(c2w), len(c2w)))
    for i in range(len(c2w)):
        x, y, d, _ = (w2c @ c2w[i] @ probes).transpose(1, 0, 2)
        with np.errstate(divide="ignore"):
            inside = (d > 0) & (d < far) & (np.abs(x / d * fx) <= cx + 1e-6) & (np.abs(y / d * fy) <= cy + 1e-6)
        out[i] = inside.mean(1)
    return out


@pytest.fixture(scope="module")
def likenesses(wander):
    """Mutual view overlap of every pair of chunks."""
    share, count = shares(wander), len(wander.c2w) // 3
    one_way = share.reshape(count, 3, count, 3).max(3).mean(1)
    return np.minimum(one_way, one_way.T)


def brute_force_places(like, theta, members, keep, limit):
    """Places of chunks 1, 2, ... one after the other; the chunks that are left after each."""
    places, left = [], []  # a place: [founder, chunks, last seen]
    for c in range(1, len(like)):
        fits = [(like[c][p[0]], -p[0], p) for p in places if like[c][p[0]] > theta]
        if fits:
            place = max(fits, key=lambda x: x[:2])[2]
            place[1].append(c)
            place[2] = c
            if len(place[1]) > members:
                place[1].remove(max(place[1]) if keep == "first" else min(place[1]))
        else:
            places.append([c, [c], c])
            if len(places) > limit:
                places.remove(min(places, key=lambda p: p[2]))
        left.append({c for p in places for c in p[1]})
    return left


@pytest.mark.parametrize(
    ("theta", "members", "keep", "limit"), [(0.5, 1, "first", 99), (0.3, 1, "newest", 99), (0.3, 2, "first", 99), (0.5, 2, "newest", 3), (0.8, 1, "first", 2)]
)
def test_places_equal_brute_force_clustering(theta, members, keep, limit, likenesses, wander, roll):
    assert (np.abs(likenesses - theta) > 1e-3).all(), "a likeness lies at the threshold: rounding would decide"
    fields = [f"policy.{k}={v}" for k, v in dict(theta=theta, members=members, keep=keep, places=limit).items()]
    diary = Diary(make_policy("places", *fields))
    stats = roll(diary, path=wander).stats
    expected = brute_force_places(likenesses, theta, members, keep, limit)
    dropped = 0
    for chunk in range(4, len(stats)):  # when chunk c is planned, chunk c - 2 has not been settled yet, c - 3 is the newest that has
        settled = {f // 3 for f in diary.held[chunk] if 3 <= f < 3 * (chunk - 2)}
        assert settled == expected[chunk - 4]
        lost = set(range(1, chunk - 2)) - settled
        assert {f // 3 for f in stats[chunk].unreachable} == lost
        dropped += len(lost)
    assert dropped, "nothing was dropped: the path tests nothing"


@pytest.mark.parametrize(("rule", "count"), [("kcentre", 3), ("kcentre", 5), ("fifo", 3)])
def test_a_bank_of_a_fixed_number_equals_the_rule_written_again(rule, count, likenesses, wander, roll):
    """Chunks 1, 2, ... one after the other, against every pair's likeness in float64."""
    diary = Diary(make_policy(rule, f"policy.chunks={count}"))
    stats = roll(diary, path=wander).stats
    like, held, left = likenesses.round(6), [], []
    for c in range(1, len(like)):
        held = [*held, c]
        if len(held) > count and rule == "fifo":
            held.pop(0)
        elif len(held) > count:
            pairs = [(a, b) for i, a in enumerate(held) for b in held[i + 1 :]]
            closest = max(like[a][b] for a, b in pairs)
            held.remove(next(b for a, b in pairs if like[a][b] == closest))
        left.append(set(held))
    for chunk in range(4, len(stats)):
        settled = {f // 3 for f in diary.held[chunk] if 3 <= f < 3 * (chunk - 2)}
        assert settled == left[chunk - 4] and len(settled) <= count
        assert {f // 3 for f in stats[chunk].unreachable} == set(range(1, chunk - 2)) - settled
    assert left[-1] != set(range(1, count + 1)) and len(like) > count + 4


def test_a_cap_may_forget_the_newer_of_the_most_alike(likenesses, wander, roll, backbone):
    """Of the chunks that the last plan did not use, against every pair's likeness in float64; and not what `lru` forgets."""
    alike, lru = (Diary(make_policy("capped", "policy@policy.inner=retrieval_only", f"policy/evict={e}", "policy.frames=36")) for e in ("alike", "lru"))
    stats = [roll(diary, path=wander).stats for diary in (alike, lru)]
    like, forgotten = likenesses.round(6), 0
    for c in range(len(stats[0]) - 1):
        before, after = {f // 3 for f in alike.held[c]} | {c}, {f // 3 for f in alike.held[c + 1]}
        idle, gone = before - {f // 3 for f in alike.plans[c].frames} - {c}, set[int]()
        while len(gone) < len(before - after):
            left = sorted(idle - gone)
            pairs = [(a, b) for i, a in enumerate(left) for b in left[i + 1 :]]
            closest = max((like[a][b] for a, b in pairs), default=0.0)
            gone.add(next((b for a, b in pairs if like[a][b] == closest), left[0]))
        assert gone == before - after
        forgotten += len(gone)
    assert forgotten > 4 and alike.held != lru.held
    assert max(held(s)["stored_bytes"] - s.scratch_bytes for s in stats[0]) <= 36 * backbone.geometry.frame_bytes


@pytest.mark.parametrize("inner", ["worldkv_rebased", "coverage"])
def test_places_without_limit_equal_the_inner_policy(inner, roll):
    plain, name = roll(make_policy(inner)), f"policy@policy.inner={inner}"
    for setting in ("policy.theta=inf", "policy.members=inf"):
        places = roll(make_policy("places", name, setting))
        assert torch.equal(places.latents, plain.latents)
        assert [s.bank_bytes_gpu for s in places.stats] == [s.bank_bytes_gpu for s in plain.stats]
    assert not torch.equal(roll(make_policy("places", name)).latents, plain.latents)


@pytest.mark.parametrize(("inner", "likeness"), [("worldkv_slot", "pose"), ("merge", "latent"), ("worldkv_release", "pose"), ("latent", "latent")])
def test_places_around_other_policies_and_likenesses(inner, likeness, roll):
    """Pooled and merged chunks, other placements: whatever is dropped is dropped once, and moving tiers changes nothing."""
    policy = make_policy("places", f"policy@policy.inner={inner}", f"policy/likeness={likeness}", "policy.theta=0.4", "policy.keep=newest")
    assert torch.equal(roll(policy).latents, roll(policy, PinnedStore()).latents)


def brute_force_landmarks(like, theta, count):
    """Slots after chunks 1, 2, ... have left the recent frames; chunk 0 is the sink."""
    slots, seen, history = {}, {}, []
    for c in range(1, len(like)):
        known = {0: None} | {chunk: s for s, chunk in sorted(slots.items())}
        best = max(like[c][k] for k in known)
        if best > theta:
            nearest = next(k for k in known if like[c][k] == best)
            seen[known[nearest]] = c
        else:
            slot = next((s for s in range(count) if s not in slots), None)
            if slot is None:
                worth = {s: max(like[slots[s]][o] for o in [0, c, *(x for t, x in slots.items() if t != s)]) for s in slots}
                worst = max(worth.values())
                slot = min((s for s in slots if worth[s] == worst), key=seen.get)
            slots[slot] = seen[slot] = c
        history.append(dict(slots))
    return history


@pytest.mark.parametrize(("theta", "slots"), [(0.5, 2), (0.7, 3), (0.8, 4)])
def test_landmarks_equal_the_rule_written_again(theta, slots, likenesses, wander, roll):
    diary = Diary(make_policy("landmark", f"policy.theta={theta}", f"policy.frames={3 * slots}"))
    stats = roll(diary, path=wander).stats
    replaced = 0
    expected = brute_force_landmarks(likenesses.round(6), theta, slots)
    for chunk in range(3, len(stats)):
        want, plan = expected[chunk - 3], diary.plans[chunk]
        replaced += len(set(expected[chunk - 4].values()) - set(want.values())) if chunk > 3 else 0
        got = {int(t - 3) // 3: f // 3 for f, t in zip(plan.frames, plan.times, strict=True) if 3 <= t < 3 + 3 * slots}
        assert got == want and len(got) <= slots
        assert plan.start == 3 + 3 * slots + 3
        assert {f // 3 for f in diary.held[chunk]} == {0, chunk - 1, *want.values()}
    assert replaced, "no landmark was replaced: the path tests too little"


def test_landmarks_of_known_places_do_not_change(loops, roll):
    """After a round nothing is novel: the same slots at the same positions, and the very same keys."""
    diary = Diary(make_policy("landmark", "policy.frames=12", "policy.theta=0.3"))
    stats = roll(diary, path=loops).stats
    settled = diary.plans[11:]
    fixed = {(f, t) for f, t in zip(settled[0].frames, settled[0].times, strict=True) if t < 15}
    assert len(fixed) > 6 and all(fixed <= set(zip(p.frames, p.times, strict=True)) for p in settled)
    rows = [{tuple(r) for r in diary.seen[c, 1][0].flatten(1).tolist()} for c in range(12, len(stats))]
    assert len(set.intersection(*rows)) == 6 * len(fixed)
    assert len({s.attended_rows for s in stats[11:]}) == len({s.bank_bytes_gpu for s in stats[11:]}) == 1


def test_memory_is_bounded_on_a_path_round_the_same_room(loops, roll, backbone):
    """Window and bank together, chunk by chunk; the second and third round cost `places`, `ema` and `landmark` nothing."""
    g = backbone.geometry
    held = {}
    for name in ("worldkv", "places", "ema", "landmark", "reencode"):
        stats = roll(make_policy(name), path=loops).stats
        held[name] = [(s.window_bytes + s.bank_bytes_gpu) / g.frame_bytes for s in stats]
    for name, most in (("places", 18 + 6 + 3 * 9), ("ema", 18 + 15 + 3), ("landmark", 18 + 15 + 3)):
        after = held[name][11:]
        assert max(after) - min(after) <= 3 and max(held[name]) <= most, f"{name} grows: {held[name]}"
        assert after[8:] == after[: len(after) - 8], f"{name} is not the same in every round"
    growth = held["worldkv"][-1] - held["worldkv"][-9]
    assert growth == pytest.approx(8 * 10 / 6, abs=0.5), "eight half chunks more every round"
    latents = g.tokens * backbone.channels * 4 / g.frame_bytes
    assert held["reencode"][-1] - held["reencode"][-9] == pytest.approx(24 * latents)
    assert latents < 0.02


def test_an_inner_policy_is_chosen_on_the_command_line():
    """`policy@policy.inner=` is not `policy=`: the settings of `places` still exist, and the table names the inner policy."""
    overrides = ["policy=places", "policy@policy.inner=coverage", "policy.theta=0.7", "policy.inner.selector.again=0.2"]
    check_overrides(CONF, overrides)
    with pytest.raises(SystemExit, match="no setting"):
        check_overrides(CONF, ["policy=places", "policy.inner.selector.again=0.2"])
    plain, default = OmegaConf.create({"policy": {}}), {"budget": "w18"}
    assert label_of(plain, default | {"policy": "places"}, overrides) == "places inner=coverage theta=0.7 inner.selector.again=0.2"
    assert label_of(plain, default | {"policy": "worldkv"}, ["policy/selector=fov"]) == "worldkv selector=fov"
    follows = OmegaConf.create({"policy": {"retrieved": "${budget.between}"}})
    assert label_of(follows, {"policy": "worldkv", "budget": "w12"}, []) == "worldkv budget=w12"
    assert label_of(plain, {"policy": "full", "budget": "w12"}, []) == "full"
