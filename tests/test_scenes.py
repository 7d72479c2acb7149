"""First images along action strings and recorded paths: names, lengths, pairs, and one path for two kinds of control."""

from dataclasses import replace

import imageio.v3 as iio
import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from backbones import lingbot, matrix_game2
from harness.rollout import rollout
from harness.stores import GpuStore
from harness.worlds.poses import differentiate, integrate, pinhole, resample, rotation
from harness.worlds.recorded import RecordedWorld, derived_actions, whole_chunks
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
    for name, shape in (("street", (30, 80)), ("hall", (64, 96))):
        array = np.random.default_rng(len(name)).integers(0, 255, (*shape, 3), dtype=np.uint8)
        iio.imwrite(tmp_path / f"{name}.png", array)
    (tmp_path / "hall.txt").write_text("A long hall.\n")
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def make(source, trajectories=("R_L90",), **changes) -> ScenesWorld:
    settings = dict(size=SIZE, fov=90.0, step=0.1, degrees=10.0, move_frames=6, hold_frames=3, fps=16.0, min_gap=8, overlap=0.25)
    return ScenesWorld(str(source), trajectories, **(settings | changes))


def listed(folder, text):
    (folder / "scenes.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return folder / "scenes.yaml"


def recorded(folder, spec="WR_LS90", step=0.05, **files):
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "poses.npy", integrate(parse(spec, 10.0, 6, 6), step).numpy())
    for name, array in files.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("name", [*NUMBERED, *MOVES])
def test_names_say_how_long(name):
    actions, known = script(name)
    assert (len(actions), known) == ((NUMBERED[name], True) if name in NUMBERED else (1 + MOVES[name], False))
    assert not actions[0].any(), "frame 0 is the start pose"


def test_a_number_holds_or_lacks_the_last_frame():
    whole = script("R_L_R_L_R_L90")[0]
    assert torch.equal(script("R_L_R_L_R_L90_360")[0], whole[:360])
    held = script("L_R_L_R_L_R_385")[0]
    assert torch.equal(held[:361], script("L_R_L_R_L_R90")[0])
    assert not held[361:].any()
    with pytest.raises(ValueError, match="moves take 360 video frames, the name says 300; use R_L_R_L_R_L90_360 or R_L_R_L_R_L90"):
        script("R_L_R_L_R_L90_300")
    with pytest.raises(ValueError, match="no multiple of 2"):
        script("R_L45_200")


def test_whole_chunks_by_listing_them():
    for chunk, stride in ((12, 4), (3, 1), (8, 8)):
        lengths = [1 + stride * (chunk // stride * n - 1) for n in range(1, 80)]
        for frames in range(1, 200):
            assert whole_chunks(frames, chunk, stride) == max((n for n in lengths if n <= frames), default=0)


def test_released_names_in_the_settings(images):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["world=scenes", f"world.folder={images}"])
        assert list(compose("config", ["world=scenes", "+backbone.size=[352,640]"]).world.size) == [352, 640], "the backbone's"
    world = instantiate(cfg.world, _convert_="all")
    assert world.names == tuple(f"{image}_{name}" for image in ("hall", "street") for name in RELEASED)
    for i, (name, frames) in enumerate(zip(RELEASED, WHOLE, strict=True)):
        t = world.trajectory(i)
        assert len(t.c2w) == len(t.actions) == len(t.intrinsics) == frames, name
        yaw = t.actions[:, 4].cumsum(0)
        assert t.pairs, name
        assert all(p.first % 4 == p.revisit % 4 == 0 and p.gap_degrees == p.gap_metres == 0 for p in t.pairs), name
        assert all(yaw[p.first] == yaw[p.revisit] and p.revisit - p.first >= 12 for p in t.pairs), name
        away = [(yaw[p.first : p.revisit] - yaw[p.first]).abs().max() for p in t.pairs]
        assert min(away) > 0.75 * 90, name


def test_every_image_takes_every_path(images):
    world = make(images, ["R_L90", "zigzag", "W_S_R90L90_40"])
    assert world.names == tuple(f"{i}_{t}" for i in ("hall", "street") for t in ("R_L90", "zigzag", "W_S_R90L90_40"))
    hall, street = world.trajectory(0), world.trajectory(3)
    assert (hall.prompt, street.prompt) == ("A long hall.", "")
    assert torch.equal(hall.c2w, street.c2w)
    assert hall.given == 1
    assert hall.reference is None
    assert hall.fps == 16.0
    assert torch.equal(hall.images, torch.from_numpy(iio.imread(images / "hall.png")).permute(2, 0, 1)[None] / 255)
    assert street.images.shape == (1, 3, *SIZE)
    assert torch.allclose(hall.intrinsics[0], torch.tensor([48.0, 48.0, 48.0, 32.0]))
    assert len(hall.c2w) == 33, "1 + 9 + 3 + 9 frames, held to three chunks"
    assert not hall.actions[22:].any()
    assert len(world.trajectory(2).c2w) == 33, "40 frames, cut to three chunks"
    assert make(images, "R_L90").names == ("hall_R_L90", "street_R_L90"), "one trajectory need not be a list"
    assert torch.equal(world.trajectory(0).c2w, hall.c2w)
    assert all(make(images, [name]).trajectory(0).pairs for name in PRESETS)


def test_images_are_cropped_not_stretched():
    image = torch.zeros(1, 3, 40, 80)
    image[..., 20:60] = 1  # the middle square
    assert torch.equal(cover(image, (40, 40)), torch.ones(1, 3, 40, 40))
    assert cover(torch.rand(1, 3, 37, 53), (64, 96)).shape == (1, 3, 64, 96)


def test_a_yaml_list(images):
    recorded(images / "paths" / "walk")
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
    expected = parse("WR_LS90", 10.0, 6, 6)[:33]
    assert torch.equal(walk.actions[:, :4], expected[:, :4]), "keys are found whatever the path's unit"
    assert torch.allclose(walk.actions, expected, atol=ROUND_TRIP)
    half = make(listed(images, entries), ["L_R90"], path_fps=32.0).trajectory(1)
    assert len(half.c2w) == 9, "19 of the 37 poses, cut to whole chunks"
    assert torch.equal(half.c2w, walk.c2w[:18:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ([{"img": "hall.png"}], "entry 1 has the unknown key img; use image, prompt, trajectory, name"),
        ([{"image": "hall.png"}, {"prompt": "A street."}], "entry 2 has no image"),
        ([{"image": "hall.png", "trajectory": "R_X_L90"}], "unknown trajectory 'R_X_L90'.*R_L_R_L90.*nor a folder"),
        ([{"image": "hall.png"}, {"image": "hall.png"}], "several scenes are called hall_R_L90.*a name each"),
        ({"image": "hall.png"}, "no list of entries"),
        ("- {image: [", "no YAML"),
        ("", "no list of entries"),
    ],
)
def test_bad_lists_are_named(images, text, message):
    with pytest.raises(ValueError, match=message):
        make(listed(images, text))


def test_missing_files_are_named(images, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match=r"no image .*attic\.png; correct the entry"):
        make(listed(images, [{"image": "attic.png"}]))
    with pytest.raises(FileNotFoundError, match="neither a folder of images nor a YAML file"):
        make(images / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"holds no image \(\.png .*put the first frames into it"):
        make(tmp_path_factory.mktemp("empty"))
    (images / "paths").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected poses\.npy"):
        make(images, [str(images / "paths")])
    (images / "hall.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"hall\.png is damaged or no image.*replace it"):
        make(images).trajectory(0)


PATHS = {
    "somewhere": "unknown trajectory 'somewhere'",
    "R_L": "needs an angle",
    "W_2": "moves take 6 video frames",
    "W_6": "6 video frames are less than a chunk of 9",
}
SETTINGS = {
    "trajectories": ([], r"has no trajectory; list some in world\.trajectories"),
    "size": (None, r"give the rows and columns that the backbone works at, as in world\.size=\[480,832\]"),
    "protocol": ("guided", "use free"),
    "fov": (180.0, "between 0 and 180"),
    "chunk_px": (10, r"no multiple of world\.stride_px=4; the Wan family has 12 and 4"),
    "path_fps": (0.0, "frame rates above 0"),
}


@pytest.mark.parametrize(("key", "value", "message"), [("trajectories", [t], m) for t, m in PATHS.items()] + [(k, *v) for k, v in SETTINGS.items()])
def test_bad_settings_are_named(images, key, value, message):
    with pytest.raises(ValueError, match=message):
        make(images, **{key: value})


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
    keys = torch.rand(60, 4, generator=g)
    actions = torch.cat([keys, 40 * torch.rand(60, 1, generator=g) - 10, 4 * torch.rand(60, 1, generator=g) - 2], 1)
    actions[:, [1, 2]] *= 0  # W and D: opposite keys cancel, and no path tells
    actions[30:, [1, 2]] = keys[30:, [1, 2]]
    actions[30:, [0, 3]] = 0
    actions[0] = 0
    c2w = integrate(actions, 0.1)
    found = differentiate(c2w, 0.1)
    assert torch.allclose(found, actions, atol=ROUND_TRIP)
    assert torch.allclose(integrate(found, 0.1), c2w, atol=ROUND_TRIP)
    elsewhere = torch.eye(4)
    elsewhere[:3, :3], elsewhere[:3, 3] = rotation(torch.tensor(70.0), torch.tensor(0.0)), torch.tensor([1.0, 2.0, 3.0])
    assert torch.allclose(differentiate(elsewhere @ c2w, 0.1), actions, atol=10 * ROUND_TRIP)
    assert differentiate(c2w[:1], 0.1).shape == (1, 6)
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
    assert torch.equal(resample(c2w[:1], torch.zeros(2)), c2w[[0, 0]])
    with pytest.raises(ValueError, match="use 0 to 24"):
        resample(c2w, torch.tensor([24.5]))


def test_recorded_paths_for_the_wan_family(tmp_path):
    """Derived actions, whole chunks of a stride, another frame rate."""
    folder = recorded(tmp_path / "walk", intrinsics=pinhole(80.0, (480, 832), 1).numpy())
    iio.imwrite(folder / "first.png", np.zeros((48, 64, 3), dtype=np.uint8))
    settings = dict(size=SIZE, protocol="free", lead_in=0, intrinsics_size=(480, 832), fps=16.0, min_gap=8, overlap=0.5, chunk_px=12, stride_px=4)
    script_actions = parse("WR_LS90", 10.0, 6, 6)
    t = RecordedWorld(str(folder), **settings).trajectory(0)
    assert len(t.c2w) == 33
    assert torch.allclose(t.actions, script_actions[:33], atol=ROUND_TRIP)
    assert t.pairs
    assert all(p.first % 4 == p.revisit % 4 == 0 for p in t.pairs)
    slow = RecordedWorld(str(folder), **settings, path_fps=8.0).trajectory(0)  # 73 frames of 1/16 s
    assert len(slow.c2w) == 69, "cut to whole chunks"
    assert torch.equal(slow.c2w[:65:2], t.c2w)
    np.save(folder / "actions.npy", script_actions.numpy())
    kept = RecordedWorld(str(folder), **settings, path_fps=8.0).trajectory(0)
    assert torch.equal(kept.actions[1:, :4], script_actions[1:35, :4].repeat_interleave(2, 0)), "a key stays down, at any frame rate"
    assert torch.allclose(kept.actions[1:, 4], script_actions[1:35, 4].repeat_interleave(2) / 2), "a turn is spread over the frames"
    np.save(folder / "frames.npy", np.zeros((37, 8, 8, 3), dtype=np.uint8))
    given = RecordedWorld(str(folder), **settings).trajectory(0)
    assert (given.given, len(given.reference)) == (9, 33)
    assert len(RecordedWorld(str(folder), **settings, path_fps=32.0).trajectory(0).reference) == 9
    with pytest.raises(ValueError, match="no frame at every 1/16 s"):
        RecordedWorld(str(folder), **settings, path_fps=8.0).trajectory(0)


def test_keys_of_a_path_in_any_unit():
    actions = parse("WDR_LAS90", 10.0, 6, 3)
    for step in (1e-3, 0.1, 50.0):
        assert torch.equal(derived_actions(integrate(actions, step))[:, :4], actions[:, :4])
    trembling = integrate(actions, 0.1)
    trembling[:, 0, 3] += 1e-3 * torch.randn(len(actions), generator=torch.Generator().manual_seed(0))
    assert torch.equal(derived_actions(trembling)[:, :4], actions[:, :4])
    assert not derived_actions(integrate(parse("R_L90"), 0.1))[:, :4].any(), "a turn presses no key"
    assert not derived_actions(integrate(actions, 0.1), step=1.0)[:, :4].any(), "a given step is kept to"
