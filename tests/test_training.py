"""Training as a product: it goes on after a crash as if nothing had happened, and it learns."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from backbones.rooms import RoomsBackbone, load_weights
from harness.training.modules import DenoiserTraining
from harness.training.train import train
from tests.conftest import CONF

pytestmark = pytest.mark.filterwarnings("ignore")


def config(out, **changes) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("experiment/train_rooms")
    few = {"chunks": 2, "walk_chunks": 3, "batch": 2, "steps": 1}
    small = {
        "out": str(out), "compile": False, "workers": 0, "device": "cpu", "checkpoint_steps": 2, "world": {"size": 16},
        "codec": {"channels": 4, "width": 4, "blocks": 1, "unique": 4, "validate_every": 4, "validation": few,
                  "phases": [{"chunks": 2, "walk_chunks": 3, "batch": 2, "steps": 4}]},
        "terms": {"perceptual": 0.0},
        "network": {"width": 64, "layers": 2, "heads": 2, "mlp": 2},
        "denoiser": {"unique": 4, "validate_every": 6, "warmup": 2, "validation": few, "rounds": 1,
                     "phases": [{"chunks": 3, "walk_chunks": 4, "batch": 2, "steps": 4}, {"chunks": 4, "walk_chunks": 5, "batch": 1, "steps": 2}]},
        "samples": {"trajectories": 1},
        "recall": {"gaps": [1, 2], "scenes": 1},
    }  # fmt: skip
    return OmegaConf.merge(cfg, small, changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The weights of a training that nothing happened to, in its folder."""
    return train(config(tmp_path_factory.mktemp("training") / "whole"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {"size": [64, 64]}}, r"samples.size=\[64, 64\], but the model works at world.size=16"),
        ({"codec": {"phases": []}}, r"codec.phases=\[\]: without start=FILE there is no codec to keep"),
        ({"denoiser": {"unique": 10**6 + 1}}, "denoiser.unique=1000001: use a whole number from 1 to 1,000,000"),
    ],
)
def test_what_would_fail_late_is_refused(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(config(tmp_path, **changes))


def test_a_codec_that_is_not_trained_stays_to_the_bit(whole, tmp_path):
    """Although the weights that are averaged hold it too."""
    begun = train(config(tmp_path / "more", start=str(whole), codec={"phases": []}, denoiser={"ema": 0.9}))
    before, after = load_file(whole), load_file(begun)
    assert all(torch.equal(x, after[k]) for k, x in before.items() if k.startswith("codec."))
    assert any(not torch.equal(x, after[k]) for k, x in before.items() if k.startswith("network."))


@pytest.mark.parametrize("crash_at", [2, 5])
def test_a_crash_changes_nothing(crash_at, whole, tmp_path, monkeypatch):
    original = DenoiserTraining.training_step

    def crash(self, clip, index):
        if int(self.step) == crash_at:
            raise RuntimeError("power cut")
        original(self, clip, index)

    monkeypatch.setattr(DenoiserTraining, "training_step", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config(tmp_path / "cut"))
    monkeypatch.setattr(DenoiserTraining, "training_step", original)
    resumed = train(config(tmp_path / "cut"))
    a, b = (RoomsBackbone(path, device="cpu") for path in (whole, resumed))
    assert torch.load(tmp_path / "cut/denoiser/last.ckpt", weights_only=False)["global_step"] == 12, "all steps of both optimizers"
    for x, y in zip(a.network.state_dict().values(), b.network.state_dict().values(), strict=True):
        assert torch.equal(x, y)
    log = next((whole.parent / "denoiser").rglob("metrics.csv")).read_text()
    assert all(column in log for column in ("val/psnr_guided", "val/recall_01", "val/recall_02"))
    recall = (tmp_path / "cut" / "samples" / "recall.csv").read_text()
    assert recall == (whole.parent / "samples" / "recall.csv").read_text()
    assert [line.split(",")[:3] for line in recall.split()[1:]] == [["6", scenes, gap] for gap in "12" for scenes in ("rooms", "houses")]
    assert {f.name for f in (whole.parent / "samples").iterdir()} == {"000006.png", "recall.csv", "recall.png"}


class Planted:
    """What a stranger's checkpoint may hold."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["planted", "cut"])
def test_a_checkpoint_runs_no_code_and_damage_is_named(tmp_path, damage):
    last = tmp_path / "out" / "codec" / "last.ckpt"
    last.parent.mkdir(parents=True)
    torch.save({"global_step": 2, "more": Planted(tmp_path / "ran")}, last)
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:-40])
    with pytest.raises(ValueError, match="last.ckpt is damaged, or holds more than numbers and tensors .*; delete it, and this stage begins anew"):
        train(config(tmp_path / "out"))
    assert not (tmp_path / "ran").exists()


def test_training_goes_on_from_a_weights_file(whole, tmp_path):
    """Codec and denoiser are the file's, the steps are counted on, and what does not fit says so."""
    still = {"lr_muon": 0.0, "lr_adam": 0.0}  # what it begins with, it ends with
    second = train(config(tmp_path / "second", start=str(whole), codec={"phases": []}, denoiser=still))
    (about, before), (about_second, after) = (load_weights(path) for path in (whole, second))
    assert (about["steps"], about_second["steps"]) == (6, 12)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert load_weights(tmp_path / "second" / "latest.safetensors")[0]["steps"] == 12
    with pytest.raises(ValueError, match="other sizes"):
        train(config(tmp_path / "third", start=str(whole), network={"width": 96, "heads": 3}))


def test_the_decoder_learns_alone(whole, tmp_path):
    """With a model that is there: encoder and denoiser stay, bit by bit."""
    second = train(config(tmp_path / "second", start=str(whole), codec={"frozen": True}, denoiser={"rounds": 0}))
    (about, before), (about_second, after) = (load_weights(path) for path in (whole, second))
    assert about["steps"] == about_second["steps"] == 6
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("codec.decoder.")}


def test_a_kill_in_the_last_validation_changes_nothing(whole, tmp_path, monkeypatch):
    """All steps are done then, and Lightning does nothing more: what is written is the average of the weights all the same."""
    original = DenoiserTraining.validation_step

    def crash(self, clip, index):
        raise RuntimeError("power cut")

    monkeypatch.setattr(DenoiserTraining, "validation_step", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        train(config(tmp_path / "cut"))
    monkeypatch.setattr(DenoiserTraining, "validation_step", original)
    assert train(config(tmp_path / "cut")).read_bytes() == whole.read_bytes()


def test_a_folder_holds_one_training(whole):
    """Other settings would go on from its checkpoint, or take its result for theirs."""
    for changes, named in (({"seed": 1}, "seed is 0 there and 1 here"), ({"denoiser": {"lr_adam": 1e-3}}, "stage.lr_adam is 0.002 there and 0.001 here")):
        with pytest.raises(ValueError, match=f"holds a training of other settings .*{named}"):
            train(config(whole.parent, **changes))
