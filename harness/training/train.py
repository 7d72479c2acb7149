"""The training of the `rooms` world model: the codec, then the denoiser, or an arm of one (settings: conf/experiment/train_rooms.yaml)."""

from functools import partial
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import DictConfig

from backbones.codecs import ConvCodec
from backbones.rooms import RoomsBackbone, pack, save_weights
from backbones.rooms_network import RoomsNetwork
from harness.settings.build import build, plain
from harness.settings.check import check, check_fields
from harness.training.clips import CHUNK, Scenery
from harness.training.codec import CodecTraining, Terms
from harness.training.modules import DenoiserTraining
from harness.training.recall import RecallCurve
from harness.training.samples import SampleGrid
from harness.training.settings import TrainSettings
from harness.training.stage import fit, length
from harness.training.start import begin
from harness.training.train_arm import train_arm
from harness.worlds.base import World
from policies.full import FullPolicy


def checked(cfg: DictConfig) -> dict:
    """The settings as plain values. Raises ValueError for what cannot work."""
    settings = plain(cfg)
    check_fields(settings, TrainSettings)
    check(settings["samples"], "samples", World)
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but PyTorch sees no GPU here; use device=cpu, or install a CUDA build of PyTorch")
    if not settings["codec"]["phases"] and not settings["start"] and not settings["arm"]:
        raise ValueError("codec.phases=[]: without start=FILE there is no codec to keep; give a weights file, or let the codec train")
    if settings["samples"].get("size") not in (None, [settings["world"]["size"]] * 2):
        raise ValueError(f"samples.size={settings['samples']['size']}, but the model works at world.size={settings['world']['size']}; use the same")
    stages = {name: settings[name] for name in ("codec", "denoiser")} | (
        {f"arm.{name}": settings["arm"][name] for name in ("depth", "alone")} if settings["arm"] else {}
    )
    for name, stage in stages.items():
        for phase in (*stage["phases"], stage["validation"]):
            if name in ("denoiser", "arm.alone") and phase["chunks"] < 2:
                raise ValueError(f"{name}: a clip of {phase['chunks']} chunk has nothing to learn from the chunk before it; give chunks=2 or more")
            if phase["walk_chunks"] < phase["chunks"]:
                raise ValueError(
                    f"{name}: a clip of {phase['chunks']} chunks does not fit a walk of {phase['walk_chunks']}; give walk_chunks={phase['chunks']} or more"
                )
    return settings


def train(cfg: DictConfig) -> Path:
    """Both stages, or an arm's, each from where it was left; returns the weights file."""
    settings = checked(cfg)
    L.seed_everything(cfg.seed, verbose=False)
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    out = Path(cfg.out)
    out.mkdir(parents=True, exist_ok=True)
    if settings["arm"]:
        return train_arm(cfg, settings)
    codec_sizes = {k: settings["codec"][k] for k in ("channels", "width", "blocks")}
    codec = ConvCodec(**codec_sizes)
    side = cfg.world.size // 8
    network = RoomsNetwork(channels=cfg.codec.channels, tokens=side * side, **cfg.network)
    seen = begin(Path(cfg.start), codec, network) if cfg.start else 0
    terms = Terms(**settings["terms"])
    if cfg.codec.phases:
        fit(
            "codec",
            CodecTraining(codec, length(cfg.codec), cfg.codec.lr, terms, cfg.codec.frozen),
            cfg.codec,
            cfg,
            1,
            [],
            codec,
            more={"terms": settings["terms"]},
        )
    if cfg.compile:
        network.compile()
    model = {"grid": [side, side], "chunk": CHUNK, "levels": settings["denoiser"]["levels"], "codec": codec_sizes, "network": settings["network"]}
    keys = ("levels", "level_weights", "context_noise", "warmup", "decay", "lr_muon", "lr_adam")
    module = DenoiserTraining(network, codec, steps=length(cfg.denoiser), seed=cfg.seed, **{k: settings["denoiser"][k] for k in keys})
    kept = {k: x.clone() for k, x in pack(codec, network).items() if k.startswith("codec.")}  # an average of equal numbers need not be that number
    if module.steps:
        samples = SampleGrid(out / "samples", build(settings["samples"], "samples", World), model, seen)
        shown = partial(_model, model, codec, network)
        recall = RecallCurve(out / "samples", Scenery(**cfg.world), shown, FullPolicy(), **settings["recall"], seen=seen)
        fit(
            "denoiser",
            module,
            cfg.denoiser,
            cfg,
            2,
            [samples, recall, EMAWeightAveraging(decay=cfg.denoiser.ema)],
            network,
            more={"network": settings["network"]},
        )
    save_weights(out / "rooms.safetensors", model | {"steps": seen + module.steps}, pack(codec, network) | kept)
    return out / "rooms.safetensors"


def _model(config: dict, codec: ConvCodec, network: RoomsNetwork) -> RoomsBackbone:
    """As it is now."""
    return RoomsBackbone.of(config, pack(codec, network))
