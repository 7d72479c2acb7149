"""First images along action strings and recorded paths: names, lengths, pairs, and one path for two kinds of control."""

from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from backbones import lingbot, matrix_game2
from harness.cache.stores import GpuStore
from harness.rollout import rollout
from harness.settings.build import build
from harness.worlds.paths import derived_actions, whole_chunks
from harness.worlds.poses import differentiate, integrate, pinhole, resample, rotation
from harness.worlds.recorded import RecordedWorld
from harness.worlds.scenes import ScenesWorld, cover, script
from harness.worlds.scripted import PRESETS, parse
from metrics.frame import PSNR
from metrics.revisit import score_pairs
from tests.conftest import CONF, make_policy

ROUND_TRIP = 1e-4  # degrees and shares of a step, from float32 poses (1e-7) over a step of 0.1 m
SIZE = (64, 96)
TINY = dict(weights="random", sizes=dict(dim=64, heads=2, layers=2, ffn=128, context_dim=32), size=SIZE, dtype="float32", device="cpu")
RELEASED = ("R_L_R_L_R_L90_360", "L_R_W_S_L_R90_318", "R_L_W_S_R_L90_318", "RLWSRL90_245", "WSRLRL90_245", "L_R_L_R_L_R_385", "R_L_R_L_90")
WHOLE = (357, 309, 309, 237, 237, 381, 261)  # their video frames in whole chunks, 1 + 4 * (3n - 1)
NUMBERED = {n: int(n.rpartition("_")[2]) for n in (*RELEASED[:6], "W_S_100", "R90L90_90")}
MOVES = {"R_L_R_L_90": 4 * 45 + 4 * 18, "R_L_R_L_R_L90": 360, "R180L90R90L180": 270, "W_S": 48 + 18, "R_360": 180 + 18, "out_back": 180 + 18}


@pytest.fixture
def images(tmp_path):
    """Two images, the first with a prompt."""
    for name, shape in (("street", (30, 80, 3)), ("hall", (64, 96, 3))):
        iio.imwrite(tmp_path / f"{name}.png", np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8))
    (tmp_path / "hall.txt").write_text("A long hall.\n")
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def make(source, trajectories=("R_L90",), **changes) -> ScenesWorld:
    settings = dict(size=SIZE, fov=90.0, step=0.1, degrees=10.0, move_frames=6, hold_frames=3, fps=16.0, min_gap=8, overlap=0.25)
    return ScenesWorld(str(source), trajectories, **(settings | changes))


def listed(folder, text):
    (folder / "scenes.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return folder / "scenes.yaml"


def recorded(folder):
    """37 poses of a walk, a turn and back; and the actions that made them."""
    actions = parse("WR_LS90", 10.0, 6, 6)
    folder.mkdir(parents=True)
    np.save(folder / "poses.npy", integrate(actions, 0.05).numpy())
    return actions


@pytest.mark.parametrize("name", [*NUMBERED, *MOVES])
def test_names_say_how_long(name):
    actions, known = script(name)
    assert (len(actions), known) == ((NUMBERED[name], True) if name in NUMBERED else (1 + MOVES[name], False))
    assert not actions[0].any(), "frame 0 is the start pose"


def test_whole_chunks_and_numbers():
    for chunk, stride in ((12, 4), (3, 1), (8, 8)):
        lengths = [1 + stride * (chunk // stride * n - 1) for n in range(1, 80)]
        for frames in range(1, 200):
            assert whole_chunks(frames, chunk, stride) == max((n for n in lengths if n <= frames), default=0)
    whole, held = script("R_L_R_L_R_L90")[0], script("L_R_L_R_L_R_385")[0]
    assert torch.equal(script("R_L_R_L_R_L90_360")[0], whole[:360]), "the last frame is missing"
    assert torch.equal(held[:361], script("L_R_L_R_L_R90")[0])
    assert not held[361:].any()


def test_released_names_in_the_settings(images):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["world=scenes", f"world.folder={images}"])
        assert list(compose("config", ["world=scenes", "+backbone.size=[352,640]"]).world.size) == [352, 640], "the backbone's"
    world = build(cfg.world, "world")
    assert world.names == tuple(f"{image}_{name}" for image in ("hall", "street") for name in RELEASED)
    for i, (name, frames) in enumerate(zip(RELEASED, WHOLE, strict=True)):
        t = world.trajectory(i)
        assert len(t.c2w) == len(t.actions) == len(t.intrinsics) == frames, name
        yaw = t.actions[:, 4].cumsum(0)
        assert t.pairs, name
        assert all(p.first % 4 == p.revisit % 4 == 0 and p.gap_degrees == p.gap_metres == 0 for p in t.pairs), name
        assert all(yaw[p.first] == yaw[p.revisit] and p.revisit - p.first >= 12 for p in t.pairs), name
        assert min((yaw[p.first : p.revisit] - yaw[p.first]).abs().max() for p in t.pairs) > 0.75 * 90, name


def test_every_image_takes_every_path(images):
    world = make(images, ["R_L90", "zigzag", "W_S_R90L90_40"])
    assert world.names == tuple(f"{i}_{t}" for i in ("hall", "street") for t in ("R_L90", "zigzag", "W_S_R90L90_40"))
    hall, street = world.trajectory(0), world.trajectory(3)
    assert (hall.prompt, street.prompt) == ("A long hall.", "")
    assert torch.equal(hall.c2w, street.c2w)
    assert (hall.given, hall.reference, hall.fps) == (1, None, 16.0)
    assert torch.equal(hall.images, torch.from_numpy(iio.imread(images / "hall.png")).permute(2, 0, 1)[None] / 255)
    assert street.images.shape == (1, 3, *SIZE)
    middle = torch.zeros(1, 3, 40, 80)
    middle[..., 20:60] = 1
    assert torch.equal(cover(middle, (40, 40)), torch.ones(1, 3, 40, 40)), "cropped, not stretched"
    assert torch.allclose(hall.intrinsics[0], torch.tensor([48.0, 48.0, 48.0, 32.0]))
    assert len(hall.c2w) == 33, "1 + 9 + 3 + 9 frames, held to three chunks"
    assert not hall.actions[22:].any()
    assert len(world.trajectory(2).c2w) == 33, "40 frames, cut to three chunks"
    assert make(images, "R_L90").names == ("hall_R_L90", "street_R_L90"), "one trajectory need not be a list"
    assert all(make(images, [name]).trajectory(0).pairs for name in PRESETS)


def test_a_yaml_list(images):
    expected = recorded(images / "paths" / "walk")[:33]
    entries = [
        {"image": "hall.png"},
        {"image": "hall.png", "prompt": "Rain.", "trajectory": "paths/walk"},
        {"image": "street.png", "trajectory": ["R_L90", "RL90_30"]},
        {"image": "street.png", "trajectory": "R_L90", "name": "again", "prompt": ""},
    ]
    world = make(listed(images, entries), ["L_R90"])
    assert world.names == ("hall_L_R90", "hall_walk", "street_R_L90", "street_RL90_30", "again")
    assert [world.trajectory(i).prompt for i in range(5)] == ["A long hall.", "Rain.", "", "", ""]
    walk = world.trajectory(1)
    assert len(walk.c2w) == 33, "37 poses, cut to whole chunks"
    assert torch.equal(walk.actions[:, :4], expected[:, :4]), "keys are found whatever the path's unit"
    assert torch.allclose(walk.actions, expected, atol=ROUND_TRIP)
    half = make(listed(images, entries), ["L_R90"], path_fps=32.0).trajectory(1)
    assert len(half.c2w) == 9, "19 of the 37 poses, cut to whole chunks"
    assert torch.equal(half.c2w, walk.c2w[:18:2])


BAD = [
    ([{"img": "hall.png"}], {}, "entry 1 has the unknown key img; use image, prompt, trajectory, name"),
    ([{"image": "hall.png"}, {"prompt": "A street."}], {}, "entry 2 has no image"),
    ([{"image": "notes.md"}], {}, r"notes\.md is damaged or no image.*replace it"),
    ([{"image": "attic.png"}], {}, r"no image .*attic\.png; correct the entry"),
    ([{"image": "hall.png", "trajectory": "R_X_L90"}], {}, "unknown trajectory 'R_X_L90'.*R_L_R_L90.*nor a folder"),
    ([{"image": "hall.png", "trajectory": "paths"}], {}, r"paths: expected poses\.npy"),
    ([{"image": "hall.png"}] * 2, {}, "several scenes are called hall_R_L90.*a name each"),
    ({"image": "hall.png"}, {}, "no list of entries"),
    ("- {image: [", {}, "no YAML"),
    (None, {"folder": "nowhere"}, "neither a folder of images nor a YAML file"),
    (None, {"folder": "paths"}, r"holds no image \(\.png .*put the first frames into it"),
    (None, {"trajectories": ["somewhere"]}, "unknown trajectory 'somewhere'"),
    (None, {"trajectories": ["R_L"]}, "needs an angle"),
    (None, {"trajectories": ["R45_200"], "degrees": 2.0}, "no multiple of 2"),
    (None, {"trajectories": ["W_2"]}, "moves take 6 video frames, the name says 2; use W_6 or W, or change world.degrees"),
    (None, {"trajectories": ["W_6"]}, "6 video frames are less than a chunk of 9"),
    (None, {"trajectories": []}, r"has no trajectory; list some in world\.trajectories"),
    (None, {"size": None}, r"give the rows and columns that the backbone works at, as in world\.size=\[480,832\]"),
    (None, {"chunk_px": 10}, r"no multiple of world\.stride_px=4; the Wan family has 12 and 4"),
    (None, {"path_fps": 0.0}, "frame rates above 0"),
]


@pytest.mark.parametrize(("entries", "changes", "message"), BAD)
def test_errors_name_the_remedy(images, entries, changes, message):
    (images / "paths").mkdir()
    source = listed(images, entries) if entries else images / changes.get("folder", "")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(source, **{k: v for k, v in changes.items() if k != "folder"}).trajectory(0)


@pytest.mark.parametrize("load", [lingbot.load, matrix_game2.load])
def test_one_path_drives_poses_and_keys(images, load):
    """Both backbones roll the same path out and are scored on it; LingBot follows its poses, Matrix-Game-2.0 its actions."""
    t = make(images, ["WSR_L_R90"]).trajectory(0)
    assert len(t.c2w) == 57, "five chunks: retrieval sets in"

    def roll(path):
        backbone = load(**TINY)
        return rollout(backbone, make_policy("worldkv"), GpuStore(), path, 0, backbone.encode(path.images))

    out = roll(t)
    assert out.frames.shape == (57, 3, *SIZE)
    assert out.generated.all(), "one image is less than a chunk"
    assert any(s.retrieved for s in out.stats)
    rows = score_pairs(out, t, None, [PSNR()])
    assert len(rows) == len(t.pairs) >= 5
    assert all(np.isfinite(r["psnr_revisit"]) and "psnr_reference" not in r for r in rows)
    begin = replace(t, c2w=t.c2w[:21], actions=t.actions[:21], intrinsics=t.intrinsics[:21])  # the poses also say what is retrieved: not yet
    own, parked, idle = (roll(x).latents for x in (begin, replace(begin, c2w=torch.eye(4).repeat(21, 1, 1)), replace(begin, actions=torch.zeros(21, 6))))
    assert [torch.equal(own, other) for other in (parked, idle)] == ([False, True] if load is lingbot.load else [True, False])


def test_actions_and_poses_are_inverse():
    g = torch.Generator().manual_seed(0)
    share = torch.rand(60, 6, generator=g)
    actions = torch.cat([share[:, :4], 40 * share[:, 4:5] - 10, 4 * share[:, 5:] - 2], 1)
    actions[:30, [1, 2]] = actions[30:, [0, 3]] = 0  # W and D, then S and A: opposite keys cancel, and no path tells
    actions[0] = 0
    c2w = integrate(actions, 0.1)
    found = differentiate(c2w, 0.1)
    assert torch.allclose(found, actions, atol=ROUND_TRIP)
    assert torch.allclose(integrate(found, 0.1), c2w, atol=ROUND_TRIP)
    elsewhere = torch.eye(4)
    elsewhere[:3, :3], elsewhere[:3, 3] = rotation(torch.tensor(70.0), torch.tensor(0.0)), torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(differentiate(elsewhere @ c2w, 0.1), actions, atol=ROUND_TRIP)
    walk = parse("WDR_LAS90", 10.0, 6, 3)
    for step in (1e-3, 50.0):
        path = integrate(walk, step)
        path[:, 0, 3] += 0.01 * step * torch.randn(len(walk), generator=g)  # a trembling hand
        assert torch.equal(derived_actions(path)[:, :4], walk[:, :4]), "in any unit"
    assert not derived_actions(integrate(walk, 0.1), step=1.0)[:, :4].any(), "a given step is kept to"
    with pytest.raises(ValueError, match="use one above 0"):
        differentiate(c2w, 0.0)


def test_resampled_poses():
    c2w = integrate(parse("R360W", 20.0), 0.3)
    assert torch.equal(resample(c2w, torch.arange(len(c2w))), c2w)
    half = resample(c2w, torch.arange(len(c2w) - 1) + 0.5)
    turned = rotation(torch.arange(18) * 20.0 + 10, torch.zeros(18))  # through half a turn, where quaternions change sign
    assert torch.allclose(half[:18, :3, :3], turned, atol=1e-6)
    assert torch.allclose(half[-1, :3, 3], (c2w[-1, :3, 3] + c2w[-2, :3, 3]) / 2, atol=1e-6)
    third = resample(integrate(parse("R90", 90.0), 0.0), torch.tensor([1 / 3]))
    assert torch.allclose(third[0, :3, :3], rotation(torch.tensor(30.0), torch.tensor(0.0)), atol=1e-6)
    with pytest.raises(ValueError, match="use 0 to 24"):
        resample(c2w, torch.tensor([24.5]))


def test_recorded_paths_for_the_wan_family(tmp_path):
    """Derived actions, whole chunks of a stride, another frame rate."""
    folder = tmp_path / "walk"
    actions = recorded(folder)
    np.save(folder / "intrinsics.npy", pinhole(80.0, (480, 832), 1).numpy())
    iio.imwrite(folder / "first.png", np.zeros((48, 64, 3), dtype=np.uint8))

    def read(path_fps=None):
        common = dict(protocol="free", lead_in=0, intrinsics_size=(480, 832), fps=16.0, min_gap=8, overlap=0.5, chunk_px=12)
        return RecordedWorld(str(folder), SIZE, **common, stride_px=4, path_fps=path_fps).trajectory(0)

    t, slow = read(), read(path_fps=8.0)
    assert torch.allclose(t.actions, actions[:33], atol=ROUND_TRIP)
    assert t.pairs
    assert all(p.first % 4 == p.revisit % 4 == 0 for p in t.pairs)
    assert len(slow.c2w) == 69, "73 frames of 1/16 s"
    assert torch.equal(slow.c2w[:65:2], t.c2w)
    np.save(folder / "actions.npy", actions.numpy())
    kept = read(path_fps=8.0).actions[1:]
    assert torch.equal(kept[:, :4], actions[1:35, :4].repeat_interleave(2, 0)), "a key stays down, at any frame rate"
    assert torch.allclose(kept[:, 4], actions[1:35, 4].repeat_interleave(2) / 2), "a turn is spread over the frames"
    np.save(folder / "frames.npy", np.zeros((37, 8, 8, 3), dtype=np.uint8))
    assert [len(x) for x in (read().images, read().reference, read(path_fps=32.0).reference)] == [9, 33, 9]
    with pytest.raises(ValueError, match="no frame at every 1/16 s"):
        read(path_fps=8.0)
