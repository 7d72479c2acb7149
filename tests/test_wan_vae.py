"""The VAE of Wan 2.1: parity with the reference, streaming, key names and layouts. What it refuses: `test_wan_encoders`."""

import re

import pytest
import torch
from diffusers import AutoencoderKLWan  # pyright: ignore[reportPrivateImportUsage]

from backbones.wan_vae import WanVAE, vae_keys
from tests.replay import FOLDER, config, golden

WEIGHTS = FOLDER / "vae" / "weights_wan_keys.safetensors"
ENCODE, DECODE = 1e-5, 1e-3  # against the reference in float32; `decoded` is stored in float16
HALF = 5e-2  # a decoder in float16 against float32, pixels in [-1, 1]: 1.6e-2 was measured, 1e-3 in the mean


@pytest.fixture(scope="module")
def io() -> dict[str, torch.Tensor]:
    return golden("vae/io")


@pytest.fixture(scope="module")
def one_shot(io) -> torch.Tensor:
    return WanVAE.from_checkpoint(WEIGHTS, "cpu").decode(io["latent_in"])


@pytest.fixture
def vae() -> WanVAE:
    return WanVAE.from_checkpoint(WEIGHTS, "cpu")


def test_vae_constants(vae):
    recorded = config("vae")
    assert vae._mean.flatten().tolist() == pytest.approx(recorded["latents_mean"])
    assert vae._std.flatten().tolist() == pytest.approx(recorded["latents_std"])
    assert vae.model.config.base_dim == recorded["config"]["dim"]


def test_encode(vae, io):
    latent = vae.encode(io["pixels"])
    assert latent.shape == (1, 16, 3, 8, 6)
    assert (latent - io["latent_normalised"]).abs().max() <= ENCODE


def test_decode_one_shot(io, one_shot):
    assert one_shot.shape == (1, 3, 33, 64, 48) and one_shot.abs().max() <= 1
    assert (one_shot - io["decoded"].float()).abs().max() <= DECODE


def test_decode_is_the_library_s(vae, io, one_shot):
    raw = io["latent_in"] * vae._std + vae._mean
    assert torch.equal(vae.model.decode(raw).sample, one_shot)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("lengths", [(3, 3, 3), (1, 2, 6)])
def test_streaming_is_exactly_one_shot(vae, io, one_shot, lengths):
    frames = []
    for latents in io["latent_in"].split(lengths, 2):
        frames.append(vae.decode(latents))
        vae.encode(io["pixels"][:, :, :1])  # has a cache of its own
    assert [f.shape[2] for f in frames] == [4 * n - 3 * (i == 0) for i, n in enumerate(lengths)]
    assert torch.equal(torch.cat(frames, 2), one_shot)


def test_begin_forgets(vae, io, one_shot):
    start = io["latent_in"][:, :, :3]
    vae.decode(io["latent_in"][:, :, 4:6])
    assert vae.decode(start).shape[2] == 12, "without begin it goes on"
    vae.begin()
    assert torch.equal(vae.decode(start), one_shot[:, :, :9])


def test_decoder_in_half_precision(io, one_shot):
    vae = WanVAE.from_checkpoint(WEIGHTS, "cpu", decode_dtype=torch.float16)
    assert vae.model.encoder.conv_in.weight.dtype == torch.float32 and vae.model.decoder.conv_in.weight.dtype == torch.float16
    frames = vae.decode(io["latent_in"][:, :, :2])
    assert frames.dtype == torch.float32
    assert 0 < (frames - one_shot[:, :, :5]).abs().max() <= HALF


@pytest.mark.parametrize("layout", ["pth", "folder"])
def test_vae_layouts(tmp_path, io, layout):
    if layout == "pth":
        path = tmp_path / "Wan2.1_VAE.pth"
        torch.save(golden("vae/weights_wan_keys"), path)
    else:
        path = tmp_path / "vae"
        WanVAE.from_checkpoint(WEIGHTS, "cpu").model.save_pretrained(path)
        assert {file.name for file in path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert (WanVAE.from_checkpoint(path, "cpu").encode(io["pixels"]) - io["latent_normalised"]).abs().max() <= ENCODE


@pytest.mark.parametrize("shape", [(1, 3, 8, 16, 16), (1, 3, 5, 16, 12), (1, 3, 1, 20, 16)])
def test_videos_that_would_be_cut(vae, shape):
    with pytest.raises(ValueError, match=re.escape(f"{shape[2]} frames of {list(shape[3:])} pixels: the VAE takes 1 + 4n frames")):
        vae.encode(torch.zeros(shape))


def test_vae_keys():
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in AutoencoderKLWan(base_dim=4).state_dict().items()}
    given = golden("vae/weights_wan_keys")
    assert {vae_keys(key): tensor.shape for key, tensor in given.items()} == wanted and len(given) == len(wanted) == 194
    assert all(vae_keys(name) == name for name in wanted), "keys of the library stay"
    assert vae_keys("conv2.bias") == "post_quant_conv.bias"
    assert vae_keys("decoder.upsamples.7.time_conv.weight") == "decoder.up_blocks.1.upsamplers.0.time_conv.weight"
    assert vae_keys("decoder.upsamples.14.residual.6.bias") == "decoder.up_blocks.3.resnets.2.conv2.bias"
    assert vae_keys("encoder.downsamples.6.shortcut.weight") == "encoder.down_blocks.6.conv_shortcut.weight"
    assert vae_keys("decoder.upsamples.15.bias") == "decoder.upsamples.15.bias", "unknown keys stay"


def test_a_decoder_goes_on_where_its_state_says(vae, io, one_shot):
    """Also after somebody else's video was decoded in between; the state itself does not change meanwhile."""
    latents = io["latent_in"]
    vae.begin()
    vae.decode(latents[:, :, :2])
    state = vae.state()
    first = vae.decode(latents[:, :, 2:])
    vae.begin()
    vae.decode(latents)
    vae.restore(state)
    assert torch.equal(vae.decode(latents[:, :, 2:]), first) and torch.equal(first, one_shot[:, :, 5:])
