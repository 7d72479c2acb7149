"""Pictures, prompts and paths as people have them: of any depth and encoding, among what systems leave, with signs that Hydra takes for its own."""

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from harness.settings.command_line import CONF, check_overrides, composed, understood
from harness.worlds.pictures import pictures_in, read_image
from harness.worlds.poses import integrate, pinhole
from harness.worlds.recorded import RecordedWorld
from harness.worlds.scripted import parse
from harness.worlds.text import prompt_beside, read_text
from tests.test_run import run
from tests.test_scenes import images, listed, make  # noqa: F401  (images is a fixture)

GREY = np.linspace(0, 1, 12 * 16).reshape(12, 16)
DEEP = {
    "grey16.png": (GREY * 65535).astype(np.uint16),
    "grey8.png": (GREY * 255).round().astype(np.uint8),
    "float.tif": GREY.astype(np.float32),
    "float255.tiff": (GREY * 255).astype(np.float32),
    "colour.tif": np.stack([GREY] * 3, -1).astype(np.float32),
    "colour16.tif": (np.stack([GREY] * 3, -1) * 65535).astype(np.uint16),
    "bytes.tif": (np.stack([GREY] * 3, -1) * 255).round().astype(np.uint8),
    "double.tif": GREY.astype(np.float64),
}


@pytest.mark.parametrize("name", DEEP)
def test_pictures_of_any_depth(tmp_path, name):
    iio.imwrite(tmp_path / name, DEEP[name])
    found = read_image(tmp_path / name)
    assert found.shape == (1, 3, 12, 16) and found.dtype == torch.float32
    assert np.allclose(found[0].numpy(), GREY, atol=1 / 255), "today 16-bit grey is white"


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [("nan.tif", np.full((8, 8), np.nan, np.float32), "NaN, infinity or numbers below 0"), ("hdr.tif", np.full((8, 8), 1e6, np.float32), "numbers up to 1e")],
)
def test_pictures_that_are_none(tmp_path, name, array, message):
    iio.imwrite(tmp_path / name, array)
    with pytest.raises(ValueError, match=rf"{name} is damaged or no image \(it holds {message}"):
        read_image(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="a.png is damaged or no image"):
        read_image(tmp_path / "a.png")


TEXTS = {
    "utf-8": "Eine Küche.".encode(),
    "BOM": "Eine Küche.".encode("utf-8-sig"),
    "UTF-16": "Eine Küche.".encode("utf-16"),
    "big-endian": b"\xfe\xff" + "Eine Küche.".encode("utf-16-be"),
    "UTF-16 without a mark": "Eine Küche.".encode("utf-16-le"),
    "big-endian without a mark": "Eine Küche.".encode("utf-16-be"),
    "UTF-32": "Eine Küche.".encode("utf-32"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_prompts_in_any_unicode(tmp_path, kind):
    (tmp_path / "a.txt").write_bytes(TEXTS[kind])
    assert read_text(tmp_path / "a.txt") == "Eine Küche."


@pytest.mark.parametrize(("encoding", "text"), [("cp1252", "Eine Küche."), ("gbk", "客厅"), ("shift_jis", "居間")])
def test_a_code_page_must_be_named(tmp_path, encoding, text):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"a.txt is not utf-8 \(byte 0x.. at .*\); save it as UTF-8, or name its code page: world.encoding=cp1252"):
        read_text(tmp_path / "a.txt")
    assert read_text(tmp_path / "a.txt", encoding) == text
    with pytest.raises(ValueError, match="world.encoding=klingon: Python knows no such encoding"):
        read_text(tmp_path / "a.txt", "klingon")


@pytest.mark.parametrize("name", ["hall.txt", "hall.TXT", "Hall.Txt", "hall.png.txt", "HALL.PNG.TXT"])
def test_a_prompt_is_found_whatever_it_is_called(images, name):  # noqa: F811
    (images / "hall.txt").unlink()
    (images / name).write_bytes("﻿Rain.\r\n".encode())
    assert make(images).trajectory(0).prompt == "Rain."
    (images / "._hall.txt").write_bytes(b"\0\5\x16\7")
    assert make(images).trajectory(0).prompt == "Rain."
    (images / "hall.jpg.txt").write_text("another picture's")
    assert make(images).trajectory(0).prompt == "Rain."
    other = "hall.png.txt" if name.lower() == "hall.txt" else "hall.txt"
    (images / other).write_text("Sun.")
    with pytest.raises(ValueError, match="are both prompts; keep one"):
        make(images)


def test_a_yaml_list_in_utf16_and_a_code_page(images):  # noqa: F811
    file = listed(images, [{"image": "hall.png", "prompt": "Küche"}])
    file.write_bytes("- {image: hall.png, prompt: Küche}\n".encode("utf-16"))
    assert make(file).trajectory(0).prompt == "Küche"
    file.write_bytes("- {image: hall.png, prompt: Küche}\n".encode("cp1252"))
    with pytest.raises(ValueError, match="scenes.yaml is not utf-8"):
        make(file)
    assert make(file, encoding="cp1252").trajectory(0).prompt == "Küche"


@pytest.fixture
def walk(tmp_path):
    """A recorded path with a picture and a prompt, below a folder as a Mac's archive leaves it."""
    folder = tmp_path / "in" / "walk"
    folder.mkdir(parents=True)
    np.save(folder / "poses.npy", integrate(parse("R_L90", 15.0), 0.1).numpy())
    np.save(folder / "intrinsics.npy", pinhole(80.0, (480, 832), 1).numpy())
    iio.imwrite(folder / "image.jpg", np.full((48, 83, 3), 128, np.uint8))
    (folder / "prompt.txt").write_text("A hall.\n")
    return folder


def world(folder):
    return RecordedWorld(str(folder), size=(16, 24), protocol="free", lead_in=2, intrinsics_size=(480, 832), fps=16.0, min_gap=6, overlap=0.5, chunk_px=3)


def test_the_prompt_beside_a_recorded_path_is_the_trajectorys(walk):
    assert world(walk.parent).trajectory(0).prompt == "A hall."
    (walk / "prompt.txt").unlink()
    assert world(walk.parent).trajectory(0).prompt == ""
    (walk / "image.jpg.txt").write_text("A stair.")
    assert world(walk.parent).trajectory(0).prompt == "A stair."
    assert prompt_beside(walk, ["nothing.txt"]) == ""


def test_what_systems_leave_is_passed_over(walk, images):  # noqa: F811
    for name in ("._poses.npy", "._image.jpg", "._prompt.txt", ".DS_Store", "._a_poses.npy"):
        (walk / name).write_bytes(b"\0\5\x16\7")
    for hidden in ("__MACOSX/in/walk", ".cache/walk", "in/@eaDir"):
        other = walk.parents[1] / hidden
        other.mkdir(parents=True)
        (other / "._poses.npy").write_bytes(b"\0")
        (other / "poses.npy").write_bytes(b"\0")
    assert world(walk.parents[1]).names == ("in_walk",)
    assert world(walk.parents[1]).trajectory(0).prompt == "A hall."
    (images / "._hall.png").write_bytes(b"\0")
    (images / "Thumbs.db").write_bytes(b"\0")
    assert [p.name for p in pictures_in(images)] == ["hall.png", "street.png"]


def test_linked_folders_are_trajectories(walk, tmp_path):
    scenes = tmp_path / "scenes"
    scenes.mkdir()
    (scenes / "linked").symlink_to(walk)
    (scenes / "loop").symlink_to(scenes)
    assert world(scenes).names == ("linked",)
    assert world(scenes).trajectory(0).pairs


ODD = ["a=b", "run(1)", "[v2]", "x{y}", "it's", "lr=0.1,wd=0", "a b", "a@b#c%d", "客厅", "~tilde"]


def test_several_runs_may_be_asked_for_anywhere():
    for flag in ("-m", "--multirun"):
        for at in range(3):
            given = ["name=e", "policy=full,worldkv"]
            given.insert(at, flag)
            assert understood(given) == [flag, "name=e", "policy=full,worldkv"]
    assert understood(["policy=full", "--cfg", "job"]) == ["policy=full", "--cfg", "job"]


@pytest.mark.parametrize("name", ODD)
def test_paths_with_any_sign_are_understood(name, tmp_path):
    (argument,) = understood([f"world.folder={tmp_path}/{name}"])
    check_overrides(CONF, ["world=recorded", argument])
    cfg, _ = composed(CONF, ["world=recorded", argument])
    assert cfg.world.folder == f"{tmp_path}/{name}"
    cfg, _ = composed(CONF, understood([f"run_dir={name}"]))
    assert cfg.run_dir == name


def test_names_are_names_and_the_home_folder_is_found(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("2025", "1e3", "true", "007", "0x10", "3.0"):
        assert composed(CONF, understood([f"name={text}"]))[0].name == text
    assert composed(CONF, understood(["run_dir=~/runs", "name=null"]))[0].run_dir == f"{tmp_path}/runs"
    assert understood(["policy=full,sliding", "-m", "world.trajectories=4", "--help", "policy=glob(sink_*)", "seed=range(0,3)"]) == [
        "-m", "policy=full,sliding", "world.trajectories=4", "--help", "policy=glob(sink_*)", "seed=range(0,3)",
    ]  # fmt: skip
    assert understood(["name=a,b", "tags=[x,y]", "seed=3"]) == ["name=a,b", "tags=[x,y]", "seed=3"], "sweeps, lists and numbers are what they are"
    assert understood(["world.size=[480,832", "seed=(3"]) == ["world.size=[480,832", "seed=(3"], "left to Hydra to say"


def test_a_run_in_a_folder_with_odd_signs(walk, tmp_path):
    odd = tmp_path / "[v2] run(1)=a"
    walk.parent.rename(odd)
    settings = ["backbone=rooms_tiny", "policy=sliding", "world=recorded", "world.size=[16,24]", "metric=tiny", "logger=none", "progress=false", "videos=1"]
    said = run(*settings, f"world.folder={odd}", "run_dir=[out]/a=(b)", cwd=tmp_path)
    assert "results: [out]/a=(b)" in said, "brackets are no markup"
    assert (tmp_path / "[out]" / "a=(b)" / "results.json").exists()
    assert "finished before: [out]/a=(b) " in run(*settings, f"world.folder={odd}", "run_dir=[out]/a=(b)", cwd=tmp_path)
