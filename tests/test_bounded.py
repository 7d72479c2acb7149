"""Bounded memories against second routes: clustering, averages and landmarks written out again, and K/V made a second time."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from harness.cache.attention import reference
from harness.cache.reencode import Reencoder
from harness.cache.stores import PinnedStore
from harness.policy import PolicyWrapper
from harness.settings.command_line import check_overrides, label_of
from harness.worlds.chunks import chunks_of
from policies.sliding import SlidingPolicy
from policies.wrappers.reencode import ReencodePolicy
from tests.conftest import CONF, make_policy, make_world
from tests.tolerances import SECOND_ROUTE


class Diary(PolicyWrapper):
    """Writes down plans, what was committed, what the bank holds, and the contexts that attention was given."""

    def __init__(self, inner):
        self.inner = inner

    def reset(self, geometry):
        super().reset(geometry)
        self.plans, self.raw, self.kv, self.held, self.seen = [], {}, {}, [], {}

    def plan(self, chunk, bank):
        self.held.append(list(bank.frames))
        self.plans.append(super().plan(chunk, bank))
        return self.plans[-1]

    def attend(self, q, k, v, site):
        if site.clean:
            self.seen[site.chunk, site.layer] = (k[0].clone(), v[0].clone())  # the last word is the chunk's own
        return super().attend(q, k, v, site)

    def commit(self, chunk, kv, bank):
        for i, f in enumerate(chunk.frames):
            part = slice(6 * i, 6 * i + 6)
            self.raw[f] = (kv.k_raw[:, 0, part].clone(), kv.v[:, 0, part].clone(), kv.positions[part].clone())
            self.kv[f] = (kv.k[:, 0, part].clone(), kv.v[:, 0, part].clone())
        super().commit(chunk, kv, bank)
        self.bank = bank


@pytest.fixture(scope="module")
def loops():
    """Three rounds through the same room: 8 views of 45 degrees, 24 chunks after the first."""
    return make_world(["R90R90R90R90"], repeat=3).trajectory(0)


@pytest.fixture(scope="module")
def wander():
    """Turns and walks of several lengths, so that likenesses are of every size."""
    return make_world(["WR60WL150R30SDR105WL60A"], degrees=15.0).trajectory(0)


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
    diary = Diary(make_policy("kcentre", f"policy.rule={rule}", f"policy.chunks={count}"))
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


def test_ema_equals_the_recursion(roll, backbone, trajectory):
    """Averages in float64 over raw rows as they were committed, and what attention saw of them, rotated here."""
    diary = Diary(make_policy("ema", "policy.recent=4"))
    stats = roll(diary, path=trajectory).stats
    last = stats[-1].chunk
    for share, mean, place in ((0.01, 3, 3), (0.1, 4, 4)):
        folded = range(3, 3 * last + 3 - 4)
        want = [x.double() for x in diary.raw[3]]
        for f in list(folded)[1:]:
            want = [(1 - share) * m + share * x.double() for m, x in zip(want, diary.raw[f], strict=True)]
        page = diary.bank.page(mean)
        for have, m in zip((page.k[:, 0], page.v[:, 0], page.positions[0, :, 1:]), (*want[:2], want[2][:, 1:]), strict=True):
            assert (have - m).abs().max() < 1e-5
        assert place < stats[-1].attended_rows // 6
    assert [s.attended_rows for s in stats[4:]] == [6 * (3 + 2 + 4 + 3)] * (last - 3)


def test_a_global_average_is_the_mean_of_all_rows_that_leave(roll):
    """The released default, in float64: one update a chunk, the same key and value in every place."""
    diary = Diary(make_policy("ema_global", "policy.recent=6"))
    stats = roll(diary).stats
    last = stats[-1].chunk
    for share, mean in ((0.01, 3), (0.1, 4)):
        want = None
        for first in range(3, 3 * last + 3 - 6, 3):
            new = [torch.cat([diary.raw[f][i] for f in range(first, first + 3)], 1).double().mean(1) for i in (0, 1)]
            want = new if want is None else [(1 - share) * m + share * x for m, x in zip(want, new, strict=True)]
        page = diary.bank.page(mean)
        for have, m in zip((page.k[:, 0], page.v[:, 0]), want, strict=True):
            assert (have - m[:, None]).abs().max() < 1e-5
    assert [s.attended_rows for s in stats[5:]] == [6 * (3 + 2 + 6 + 3)] * (last - 4)


def test_ema_positions_start_at_zero(roll, backbone):
    diary = Diary(make_policy("ema", "policy.recent=4", "policy.long=0.0", "policy.short=1.0"))
    roll(diary)
    plan, last = diary.plans[-1], len(diary.plans) - 1
    assert plan.times == tuple(range(9)) and plan.start == 9
    newest = 3 * last - 5  # with these shares the long average is the first frame that left, the short one the newest
    sources = [0, 1, 2, 3, newest, *range(3 * last - 4, 3 * last + 3)]
    for layer in range(3):
        keys = []
        for place, f in enumerate(sources):
            k, _, at = diary.raw[f]
            at = at.clone()
            at[:, 0] = place
            keys.append(backbone.rope(at)(k[layer][None])[0])
        ours, theirs = (torch.tensor(sorted(x.flatten(1).tolist())) for x in (diary.seen[last, layer][0], torch.cat(keys)))
        assert torch.allclose(ours, theirs, atol=1e-5)


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
    diary = Diary(make_policy("landmark", f"policy.theta={theta}", f"policy.slots={slots}"))
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
    diary = Diary(make_policy("landmark", "policy.slots=4", "policy.theta=0.3"))
    stats = roll(diary, path=loops).stats
    settled = diary.plans[11:]
    fixed = {(f, t) for f, t in zip(settled[0].frames, settled[0].times, strict=True) if t < 15}
    assert len(fixed) > 6 and all(fixed <= set(zip(p.frames, p.times, strict=True)) for p in settled)
    rows = [{tuple(r) for r in diary.seen[c, 1][0].flatten(1).tolist()} for c in range(12, len(stats))]
    assert len(set.intersection(*rows)) == 6 * len(fixed)
    assert len({s.attended_rows for s in stats[11:]}) == len({s.bank_bytes_gpu for s in stats[11:]}) == 1


@pytest.mark.parametrize("slots", [2, 5])
def test_a_field_is_the_means_of_what_its_slots_took_in(slots, wander, roll, backbone):
    """Clusters of frames in float64: the members of every slot, kept as lists, and their means at the end."""
    diary = Diary(make_policy("field", f"policy.slots={slots}"))
    last = len(roll(diary, path=wander).stats) - 1
    members, moved = [], 0

    def like(a, b):
        a, b = (torch.stack([diary.raw[m][0].double().mean(1).flatten() for m in group]).mean(0) for group in (a, b))
        return float(a @ b / (a.norm() * b.norm()))

    for f in range(3, 3 * last):
        groups = [*members, [f]]
        if len(groups) > slots:
            a, b = max(((i, j) for i in range(slots) for j in range(i + 1, slots + 1)), key=lambda at: like(groups[at[0]], groups[at[1]]))
            groups[a], groups[b] = groups[a] + groups[b], groups[-1]
            groups.pop()
            moved += b < slots
        members = groups
    assert moved >= 2, "newcomers always joined a slot, and none took a free one"
    assert len([g for g in members if len(g) > 1]) >= 2, "frames all went to one slot"
    for group in members:
        page = diary.bank.page(group[0])
        for have, which in ((page.k[:, 0], 0), (page.v[:, 0], 1)):
            assert (have - torch.stack([diary.raw[m][which].double() for m in group]).mean(0)).abs().max() < 1e-4
        assert (page.positions[0, :, 1:] - torch.stack([diary.raw[m][2][:, 1:].double() for m in group]).mean(0)).abs().max() < 1e-4
    plan = diary.plans[-1]
    assert plan.start == 3 + slots + 3 and plan.times == tuple(range(3 + slots + 3)), "sink, slots and recent frames stand one after the other"
    assert {f for f in diary.held[-1] if 3 <= f < 3 * last - 3} == set(plan.frames[3 : 3 + slots]) and len(diary.held[-1]) == 6 + slots


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


def test_everything_encoded_again_equals_full(roll, backbone, trajectory):
    """No K/V is kept at all: every chunk's past is encoded from chunk 0 on, at its own positions, and gives what was stored."""
    full, again = Diary(make_policy("full")), Diary(ReencodePolicy(make_policy("full"), sink=0, recent=0))
    stored, remade = roll(full), roll(again)
    scale = stored.latents.abs().max()
    assert (stored.latents - remade.latents).abs().max() < SECOND_ROUTE * scale
    last = len(again.plans) - 1
    for layer in range(3):
        for mine, theirs in zip(again.seen[last, layer], full.seen[last, layer], strict=True):
            mine, theirs = (torch.tensor(sorted(x.flatten(1).tolist())) for x in (mine, theirs))
            assert (mine - theirs).abs().max() < SECOND_ROUTE * scale
    latents = [s.start * backbone.geometry.tokens * backbone.channels * 4 for s in remade.stats]
    assert [s.bank_bytes_gpu for s in remade.stats] == [x + 3 * 6 * 4 * 4 for x in latents], "the bank holds anything but latents"
    assert all(s.window_bytes == s.attended_rows * backbone.geometry.row_bytes for s in remade.stats)


@pytest.mark.parametrize("kept", [(0, 0), (3, 3), (0, 6)])
def test_everything_retrieved_at_contiguous_positions_equals_full(kept, roll, known):
    """With un-rotated keys and every position given by the plan: contiguous and from 0 is where everything was."""
    policy = make_policy("reencode", "policy.inner.retrieved=inf", f"policy.sink={kept[0]}", f"policy.recent={kept[1]}")
    mine, full = roll(policy), known("full")
    assert (mine.latents - full.latents).abs().max() < SECOND_ROUTE * full.latents.abs().max()
    assert torch.equal(mine.latents, roll(policy, PinnedStore()).latents)


def test_chosen_chunks_are_encoded_in_the_context_of_the_plan(roll, backbone, trajectory):
    """The window of the last chunk made by hand: its sink's raw rows, then chunk by chunk the network over a growing past."""
    diary = Diary(make_policy("reencode", "policy.inner.retrieved=6"))
    mine = roll(diary)
    plan, chunks = diary.plans[-1], chunks_of(trajectory, backbone.geometry)
    assert len(plan.retrieved) == 6 and plan.times == tuple(range(12))
    keys, values = ([] for _ in range(2))
    for f, t in zip(plan.frames[:3], plan.times, strict=False):
        k, v, at = diary.raw[f]
        at = at.clone()
        at[:, 0] = t
        keys.append(backbone.rope(at)(k))
        values.append(v)
    keys, values = torch.cat(keys, 1), torch.cat(values, 1)
    for i in (3, 6):
        chunk = chunks[plan.frames[i] // 3]
        condition, made = backbone.condition(trajectory, chunk), []
        at = condition.positions.clone()
        at[:, 0] += plan.times[i] - chunk.start
        rotate = backbone.rope(at)

        def seam(layer, q, k, v, rotate=rotate, made=made, keys=keys, values=values):
            made.append((rotate(k)[0], v[0]))
            past = zip((keys, values), made[-1], strict=True)
            return reference(rotate(q), *(torch.cat([old[layer], new])[None] for old, new in past))

        with torch.no_grad():
            backbone.denoise(mine.latents[chunk.start : chunk.start + 3][None], 0.0, condition, seam)
        keys, values = (torch.cat([old, torch.stack(new)], 1) for old, new in zip((keys, values), zip(*made, strict=True), strict=True))
    for layer in range(3):
        window = torch.cat(diary.seen[len(chunks) - 1, layer], -1).flatten(1)
        for row in torch.cat([keys[layer], values[layer]], -1).flatten(1):
            assert (window - row).abs().amax(1).min() < SECOND_ROUTE * window.abs().max(), "a row that should be in the window is not"
    stale = torch.cat(diary.kv[plan.frames[4]], -1)[2].flatten(1)
    assert (window - stale[0]).abs().amax(1).min() > 1e-3, "the rows that were thrown away came back"


def test_unchanged_selections_are_not_encoded_twice(backbone, roll, monkeypatch):
    """While the plan up to a chunk stays the same its rows stay too; `full` needs one new pass a chunk, not all of them."""
    count = []
    encode = Reencoder._encode
    monkeypatch.setattr(Reencoder, "_encode", lambda self, chunk, *rest: (count.append(chunk.index), encode(self, chunk, *rest))[1])
    chunks = len(roll(ReencodePolicy(make_policy("full"), sink=0, recent=0)).stats)
    assert count == list(range(chunks - 1))
    count.clear()
    diary = Diary(make_policy("reencode"))
    roll(diary)
    expected, before = [], ()
    for plan in diary.plans:
        common = next((i for i, (a, b) in enumerate(zip(before, plan.retrieved, strict=False)) if a != b), min(len(before), len(plan.retrieved)))
        expected += dict.fromkeys(f // 3 for f in plan.retrieved[common:])
        before = plan.retrieved
    assert len(count) < sum(len(p.retrieved) // 3 for p in diary.plans), "nothing was reused: the path tests too little"
    assert count == expected


def test_latents_go_with_their_frames(roll, backbone):
    """A policy that drops drops latents too, and places around a bank of latents bound even these."""
    sliding = roll(ReencodePolicy(SlidingPolicy(recent=6), sink=0, recent=3)).stats
    frame = backbone.geometry.tokens * backbone.channels * 4
    assert {s.bank_bytes_gpu for s in sliding[3:]} <= {6 * frame, 6 * frame + 3 * backbone.geometry.frame_bytes}
    places = make_policy("places", "policy@policy.inner=retrieval_only")
    bounded = ReencodePolicy(places, sink=3, recent=3)
    assert max(len(s.unreachable) for s in roll(bounded).stats) > 0


def test_what_cannot_be_encoded_again_is_refused(roll, backbone, monkeypatch):
    for override, message in (
        ("policy.sink=-1", "policy.sink=-1: use a whole number from 0"),
        ("policy/placement@policy.inner.placement=slot", "consecutive positions"),
        ("policy.inner.compress=retrieve policy/compressor@policy.inner.compressor=anchor", "as a whole"),
    ):
        with pytest.raises(ValueError, match=message):
            roll(make_policy("reencode", *override.split()))
    monkeypatch.setattr(backbone, "repeatable", False)
    with pytest.raises(ValueError, match="changes more than K/V"):
        roll(make_policy("reencode"))


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
