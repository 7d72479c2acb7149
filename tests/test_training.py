"""Training as a product: it goes on after a crash as if nothing had happened, and it learns."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from backbones.rooms import RoomsBackbone
from harness.training.clips import Batches, Phase, make_clip
from harness.training.modules import DenoiserTraining, schedule
from harness.training.train import train
from tests.conftest import CONF

pytestmark = pytest.mark.filterwarnings("ignore")


def config(out, **changes) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("experiment/train_rooms")
    small = {
        "out": str(out), "compile": False, "workers": 0, "device": "cpu", "checkpoint_steps": 2, "world": {"size": 16},
        "codec": {"channels": 4, "width": 4, "unique": 4, "validate_every": 4, "phases": [{"chunks": 2, "walk_chunks": 3, "batch": 2, "steps": 4}]},
        "network": {"width": 64, "layers": 2, "heads": 2, "mlp": 2},
        "denoiser": {"unique": 4, "validate_every": 6, "warmup": 2,
                     "phases": [{"chunks": 3, "walk_chunks": 4, "batch": 2, "steps": 4}, {"chunks": 4, "walk_chunks": 5, "batch": 1, "steps": 2}]},
        "samples": {"trajectories": 1, "size": [16, 16]},
    }  # fmt: skip
    return OmegaConf.merge(cfg, small, changes)


@pytest.mark.parametrize("crash_at", [2, 5])
def test_a_crash_changes_nothing(crash_at, tmp_path, monkeypatch):
    whole = train(config(tmp_path / "whole"))
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
    assert (tmp_path / "cut" / "samples").is_dir()
    assert "val/psnr_guided" in next((tmp_path / "whole" / "denoiser").rglob("metrics.csv")).read_text()


def test_batches_go_on_where_they_were_left():
    phases = [Phase(4, 8, 2, 3), Phase(8, 8, 1, 2)]
    everything = list(Batches(phases, 0))
    assert everything == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4), (0, 5)], [(1, 6)], [(1, 7)]]
    for start in range(6):
        assert list(Batches(phases, start)) == everything[start:]
        assert len(Batches(phases, start)) == len(everything), "a resumed epoch goes on counting"


def test_clips_are_functions_of_their_seed():
    a, b = (make_clip(7, 3, 6, 16, 80.0, 0.12) for _ in range(2))
    assert torch.equal(a.frames, b.frames)
    assert a.frames.shape == (9, 3, 16, 16)
    assert not torch.equal(a.frames, make_clip(8, 3, 6, 16, 80.0, 0.12).frames)


def test_schedule():
    factors = [schedule(s, 100, 10, 0.4) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:60] == [1.0] * 50
    assert factors[-1] == pytest.approx(1 / 40)


def test_the_network_learns_to_copy_from_memory():
    """On one clip, overfitted: without the past the last chunk cannot be told from pure noise; with it, it can."""
    from backbones.codecs import ConvCodec
    from backbones.rooms_network import RoomsNetwork
    from harness.training.clips import collate

    torch.manual_seed(0)
    clip = collate([make_clip(3, 3, 3, 16, 80.0, 0.12)])
    codec = ConvCodec(4, 4)
    codec(clip.frames[0].float() / 255)
    module = DenoiserTraining(RoomsNetwork(4, 64, 2, 2, 2, 4), codec, (1.0,), (1.0,), 0.0, 60, 5, 0.4, 0.02, 2e-3)
    optimizers = module.configure_optimizers()
    losses = []
    for step in range(60):
        loss, _ = module.loss(clip, torch.Generator().manual_seed(step))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
