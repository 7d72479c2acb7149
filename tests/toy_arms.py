"""Arms of a toy model for the tests: its weights, and the settings and clips of a training in seconds."""

from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from backbones.codecs import ConvCodec
from backbones.rooms import load_weights, pack, save_weights
from backbones.rooms_arms import memory_of
from backbones.rooms_network import RoomsNetwork
from harness.training.arm import ArmTraining
from harness.training.arm_clips import as_session
from harness.training.clips import CHUNK, Clip, Scenery, make_clip
from harness.trajectory import Trajectory
from tests.conftest import CONF, make_policy

TRAINED = ("control", "retrieved", "compressed", "recurrent", "geometry")
BASE = {
    "grid": [2, 2],
    "chunk": CHUNK,
    "levels": [1.0, 0.7],
    "codec": {"channels": 4, "width": 4, "blocks": 1},
    "network": {"width": 64, "layers": 3, "heads": 2, "mlp": 2},
}
SCENERY = Scenery(16, 80.0, 0.12, 0.5)


def config(base, out, name, **changes) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("experiment/train_rooms", [f"arm={name}"])
    few = {"chunks": 3, "walk_chunks": 4, "batch": 1, "steps": 1}
    small = {
        "start": str(base), "out": str(out), "workers": 0, "device": "cpu", "precision": "32-true", "checkpoint_steps": 2, "world": {"size": 16},
        "denoiser": {"levels": [1.0, 0.7], "level_weights": [0.6, 0.4], "unique": 4, "validate_every": 6, "warmup": 2, "validation": few, "rounds": 1,
                     "phases": [{"chunks": 8, "walk_chunks": 9, "batch": 2, "steps": 4}, {"chunks": 9, "walk_chunks": 12, "batch": 1, "steps": 2}]},
        "recall": {"gaps": [2], "scenes": 1},
        "arm": {
            "depth": {"unique": 4, "validate_every": 2, "validation": few, "phases": [{"chunks": 2, "walk_chunks": 3, "batch": 2, "steps": 2}]},
            "alone": {"unique": 4, "validate_every": 2, "validation": few, "phases": [{"chunks": 8, "walk_chunks": 9, "batch": 1, "steps": 2}]},
        },
    }  # fmt: skip
    return OmegaConf.merge(cfg, small, changes)


def clip_of(chunks: int, seed: int = 5) -> Clip:
    return as_session(make_clip(seed, chunks, chunks + 4, SCENERY))


def path_of(clip: Clip) -> Trajectory:
    frames = clip.frames.float() / 255
    return Trajectory("clip", clip.c2w, clip.intrinsics, torch.zeros(len(frames), 6), frames, ())


def toy_base(folder: Path) -> Path:
    """Weights of a toy model, in a file: random, and open enough that what a window shows is noticed."""
    torch.manual_seed(0)
    codec, network = ConvCodec(**BASE["codec"]), RoomsNetwork(4, tokens=4, **BASE["network"])
    codec(torch.rand(8, 3, 16, 16))  # statistics for the norm
    for module in (network.modulation, network.head_modulation, network.head):
        torch.nn.init.normal_(module.weight, std=0.3)
    path = folder / "toy.safetensors"
    save_weights(path, BASE, pack(codec, network))
    return path


def module_for(arm: str, path, steps: int = 6, own: float = 1.0, seed: int = 0) -> ArmTraining:
    """The training of an arm on the base in a file, its memory as if it had learned something."""
    config, tensors = load_weights(path)
    codec, network = ConvCodec(**config["codec"]), RoomsNetwork(4, tokens=4, **config["network"])
    for prefix, part in (("codec.", codec), ("network.", network)):
        part.load_state_dict({k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)})
    torch.manual_seed(1)
    memory = memory_of(arm, config)
    for weights in memory.parameters():  # as if it had learned: what begins at zero would hide what is wrong
        if not weights.any():
            torch.nn.init.normal_(weights, std=0.3)
    settings = dict(levels=(1.0, 0.7), level_weights=(0.6, 0.4), context_noise=0.0, steps=steps, warmup=2, decay=0.4, lr_muon=0.005, lr_adam=5e-4)
    return ArmTraining(network, codec, memory, make_policy(f"trained_{arm}"), 0.8, own, 2e-3, **settings, seed=seed)
