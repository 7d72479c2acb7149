"""Training that begins from a weights file: the shipped model, or what an earlier training reached."""

from pathlib import Path

from backbones.codecs import ConvCodec
from backbones.rooms import load_weights
from backbones.rooms_network import RoomsNetwork

CHANNELED = ("embed.", "head.")  # layers whose size is that of the latents


def begin(path: Path, codec: ConvCodec, network: RoomsNetwork) -> int:
    """Give codec and network the weights of a file; returns the denoiser's steps that these have seen (0 if the file does not say).

    The file's codec may have fewer residual blocks, and another number of channels: what touches the latents then starts anew.
    Raises FileNotFoundError or ValueError for a file that is missing, damaged or of another size.
    """
    config, tensors = load_weights(path)
    part = {name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)} for name in ("codec.", "network.")}
    smaller = ConvCodec(**config["codec"])
    try:
        smaller.load_state_dict(part["codec."])
        codec.grow(smaller)
        anew = network.state_dict() if config["codec"]["channels"] != codec.norm.num_features else {}
        network.load_state_dict(part["network."] | {k: anew[k] for k in anew if k.startswith(CHANNELED)})
    except (RuntimeError, StopIteration) as error:
        sizes = f"codec {config['codec']}, network {config['network']}"
        raise ValueError(f"start={path} has other sizes ({sizes}) than the settings codec.* and network.*; give these, or another file. {error}") from error
    return config.get("steps", 0)
