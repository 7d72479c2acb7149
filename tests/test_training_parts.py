"""The parts of a training: clips and their order, losses, precision, and a network that learns to copy from memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

from backbones.codecs import ConvCodec
from backbones.rooms_network import RoomsNetwork
from harness.settings.check import check_object
from harness.training.clips import Batches, Phase, Scenery, collate, make_clip
from harness.training.codec import CodecTraining, Terms, texture_error
from harness.training.modules import DenoiserTraining, pixels, schedule
from harness.training.stage import precision_of
from harness.training.teacher import TeacherForcing, attention, rotate
from harness.training.walks import CHUNK, KINDS, choose

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_codec_grows_without_a_change():
    """More residual blocks start as the identity; another number of channels keeps what does not touch the latents."""
    torch.manual_seed(0)
    small, images = ConvCodec(4, 4), torch.rand(2, 3, 16, 16)
    small(images)  # statistics for the norm
    large, wide = ConvCodec(4, 4, blocks=3), ConvCodec(6, 4, blocks=2)
    large.grow(small)
    wide.grow(small)
    for codec in (small, large, wide):
        codec.eval()
    assert torch.equal(small.encode(images), large.encode(images))
    assert torch.equal(small.decode(small.encode(images)), large.decode(small.encode(images)))
    assert torch.equal(small.encoder[1].weight, wide.encoder[1].weight)
    with pytest.raises(RuntimeError, match="size mismatch"):
        ConvCodec(4, 6).grow(small)


def test_texture_is_compared_and_not_its_place():
    """Noise of half the strength is too smooth by log 2; other noise of the same strength is nearly right, although no pixel is."""
    noise, other = 0.5 * torch.randn(2, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert texture_error(noise, noise) == 0
    assert texture_error(0.5 * noise, noise).item() == pytest.approx(math.log(2) ** 2, rel=0.01)
    assert texture_error(other, noise) < 0.1 * math.log(2) ** 2
    flat = torch.zeros(1, 3, 16, 16, requires_grad=True)
    texture_error(flat, torch.ones(1, 3, 16, 16)).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_the_perceptual_term_has_gradients():
    clip = collate([make_clip(5, 1, 1, Scenery(32, 80.0, 0.12, houses=1.0))])
    losses, gradients = [], []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        module = CodecTraining(ConvCodec(4, 4), 10, 1e-3, Terms(0.02, weight, 0.0), frozen=False)
        loss = module.restoration(module.codec(pixels(clip)), pixels(clip))
        loss.backward()
        losses.append(loss.item())
        gradients.append(module.codec.decoder[0].weight.grad.norm().item())
    assert losses[1] > losses[0] + 0.1
    assert gradients[1] > 2 * gradients[0]


def test_batches_go_on_where_they_were_left():
    phases = [Phase(4, 8, 2, 3), Phase(8, 8, 1, 2)]
    everything = list(Batches(phases, 0))
    assert everything == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4), (0, 5)], [(1, 6)], [(1, 7)]]
    for start in range(6):
        assert list(Batches(phases, start)) == everything[start:]
        assert len(Batches(phases, start)) == len(everything), "a resumed epoch goes on counting"


@pytest.mark.parametrize("houses", [0.0, 1.0])
def test_clips_are_functions_of_their_seed(houses):
    scenery = Scenery(16, 80.0, 0.12, houses)
    a, b = (make_clip(7, 3, 6, scenery) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert a.frames.shape == (9, 3, 16, 16)
    assert bool(a.house) == bool(houses)
    assert not torch.equal(a.frames, make_clip(8, 3, 6, scenery).frames)
    with pytest.raises(ValueError, match="walk_chunks=4"):
        make_clip(7, 4, 3, scenery)
    with pytest.raises(ValueError, match="world.houses=2: use a number from 0 to 1"):
        check_object(Scenery(16, 80.0, 0.12, 2), "world")


def test_clips_mix_rooms_and_houses_and_three_kinds():
    """The mixture has its shares, and a jump goes where the camera was, while time goes on."""
    drawn = [bool(torch.rand(1, generator=torch.Generator().manual_seed(seed)) < 0.5) for seed in range(400)]
    assert [bool(make_clip(seed, 1, 1, Scenery(8, 80.0, 0.12, 0.5)).house) for seed in range(10)] == drawn[:10], "a house takes half a second"
    assert 160 < sum(drawn) < 240 and 0 < sum(drawn[:10]) < 10
    kinds = {"contiguous": 0, "skipping": 0, "cutting": 0}
    back = 0
    for seed in range(300):
        shown, times = choose(torch.Generator().manual_seed(seed), 6, 20 * CHUNK)
        assert len(shown) == len(times) == 6 * CHUNK
        assert shown.min() >= 0
        assert shown.max() < 20 * CHUNK
        assert (times.diff() > 0).all(), "time never goes back"
        assert (times.view(6, CHUNK).diff() == 1).all(), "a chunk is whole"
        assert (shown.view(6, CHUNK).diff().abs() == 1).all()
        contiguous = bool((shown == torch.arange(18)).all() and (times == torch.arange(18)).all())
        kind = "contiguous" if contiguous else "skipping" if torch.equal(shown, times) else "cutting"
        kinds[kind] += 1
        back += kind == "cutting" and len(shown.unique()) < len(shown)
    assert all(abs(count / 300 - KINDS[kind]) < 0.08 for kind, count in kinds.items()), kinds
    assert back > 0.6 * kinds["cutting"]


def test_in_mixed_precision_attention_is_the_same():
    """Its products one after the other, against torch's fused kernel; forward and backward."""
    torch.manual_seed(0)
    rows = [torch.randn(1, 2, n, 32, requires_grad=True) for n in (12, 36, 36)]
    fused = F.scaled_dot_product_attention(*rows)
    expected = torch.autograd.grad(fused.square().sum(), rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = attention(*rows)
    assert mine.dtype == torch.bfloat16, "the other way is taken"
    torch.testing.assert_close(mine.float(), fused, atol=2e-2, rtol=0)
    for got, wanted in zip(torch.autograd.grad(mine.float().square().sum(), rows), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=5e-2, rtol=0)


def test_schedule():
    factors = [schedule(s, 100, 10, 0.4) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:60] == [1.0] * 50
    assert factors[-1] == pytest.approx(1 / 40)


class Blind(TeacherForcing):
    """Every chunk, clean or noisy, sees itself alone."""

    def __call__(self, layer, q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (rotate(q, self.cos, self.sin), rotate(k, self.cos, self.sin), v))
        chunks = [slice(start, start + self.rows) for start in range(0, q.shape[2], self.rows)]
        return torch.cat([attention(q[:, :, c], k[:, :, c], v[:, :, c]) for c in chunks], 2).transpose(1, 2)


def test_the_network_learns_to_copy_from_memory(monkeypatch):
    """Something new at every step, the same in all chunks: pure noise says nothing of it, the past does. 120 steps: 0.04 of its variance is left
    with the past, all of it without."""
    clip = collate([make_clip(3, 3, 3, Scenery(16, 80.0, 0.12))] * 4)
    left = {}
    for seam in (TeacherForcing, Blind):
        monkeypatch.setattr("harness.training.modules.TeacherForcing", seam)
        torch.manual_seed(0)
        module = DenoiserTraining(RoomsNetwork(4, 64, 2, 2, 2, 4), ConvCodec(4, 4), (1.0,), (1.0,), 0.0, 120, 5, 0.4, 0.02, 2e-3)
        _, *places = module.inputs(clip)
        optimizers, g = module.configure_optimizers(), torch.Generator().manual_seed(1)
        losses = []
        for step in range(120):
            seen = torch.randn(4, 1, 1, 4, generator=g).expand(4, 9, 4, 4)
            monkeypatch.setattr(module, "inputs", lambda clip, seen=seen, places=places: (seen, *places))
            loss, _ = module.loss(clip, torch.Generator().manual_seed(step))
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.item())
        left[seam] = sum(losses[-10:]) / 10
    assert left[TeacherForcing] < 0.15 and left[Blind] > 0.7, left


@pytest.mark.parametrize(("fast", "expected"), [(torch.bfloat16, "bf16-mixed"), (torch.float32, "32-true")])
def test_the_precision_is_what_the_machine_multiplies_fastest(monkeypatch, fast, expected):
    monkeypatch.setattr("harness.training.stage._multiplying", lambda dtype: 0.1 if dtype == fast else 1.0)
    assert precision_of(OmegaConf.create({"precision": "auto", "device": "cpu"})) == expected
    assert precision_of(OmegaConf.create({"precision": "bf16-true", "device": "cpu"})) == "bf16-true"
