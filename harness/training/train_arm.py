"""The training of an arm (settings: conf/arm/): from the base's weights to a file of what changed."""

from functools import partial
from pathlib import Path

from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import DictConfig

from backbones.codecs import ConvCodec
from backbones.rooms import WEIGHTS, RoomsBackbone, load_weights, pack
from backbones.rooms_arms import file_name, fingerprint, memory_of, save_arm
from backbones.rooms_geometry import GeometryMemory
from backbones.rooms_memory import Memory
from backbones.rooms_network import RoomsNetwork
from harness.policy import CachePolicy
from harness.settings.build import build
from harness.training.alone import MemoryTraining
from harness.training.arm import ArmTraining
from harness.training.arm_clips import SessionClips
from harness.training.clips import CHUNK, Scenery
from harness.training.depth import DepthClips, DepthTraining
from harness.training.recall import RecallCurve
from harness.training.stage import fit, length

WARMUP = 10  # steps of the first stage of an arm's own weights, which is short


def train_arm(cfg: DictConfig, settings: dict) -> Path:
    """From where it was left; returns the arm's file. Raises ValueError for settings that do not fit the base, FileNotFoundError without one."""
    path, out, arm = Path(cfg.start or WEIGHTS), Path(cfg.out), settings["arm"]
    config, tensors = load_weights(path)
    _check(path, config, settings)
    codec, network = ConvCodec(**config["codec"]), RoomsNetwork(config["codec"]["channels"], tokens=config["grid"][0] * config["grid"][1], **config["network"])
    for prefix, module in (("codec.", codec), ("network.", network)):
        module.load_state_dict({k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)})
    memory = memory_of(arm["name"], config)
    if isinstance(memory, GeometryMemory):
        head = DepthTraining(memory.depth, codec, length(cfg.arm.depth), cfg.arm.depth.lr)
        fit("depth", head, cfg.arm.depth, cfg, 1, [], memory.depth, DepthClips)  # the same for whatever arm
        memory.depth.requires_grad_(False)
    keys = ("levels", "level_weights", "context_noise", "warmup", "decay", "lr_muon", "lr_adam")
    training = {k: settings["denoiser"][k] for k in keys} | {"steps": length(cfg.denoiser), "seed": cfg.seed}
    policy, begun = build(arm["policy"], "arm.policy", CachePolicy), {"arm": arm, "base": fingerprint(tensors)}
    clips = partial(SessionClips, palindromes=arm["palindromes"])
    if any(p.requires_grad for p in memory.parameters()):
        first = MemoryTraining(network, codec, memory, policy, 1.0, 0.0, cfg.arm.alone.lr, **training | {"steps": length(cfg.arm.alone), "warmup": WARMUP})
        network.requires_grad_(False)
        fit("alone", first, cfg.arm.alone, cfg, 1, [], memory, clips, begun | {"training": training})
        network.requires_grad_(True)
    module = ArmTraining(network, codec, memory, policy, arm["share"], arm["own"], arm["lr_memory"], **training)
    shown = build(arm["policy"], "arm.policy", CachePolicy)
    recall = RecallCurve(
        out / "samples", Scenery(**cfg.world), partial(_model, config, codec, network, arm["name"], memory), shown, **settings["recall"], seen=0
    )
    fit("arm", module, cfg.denoiser, cfg, 2, [recall, EMAWeightAveraging(decay=cfg.denoiser.ema)], module.trained, clips, begun)
    about = {"arm": arm["name"], "steps": module.steps, "seed": cfg.seed, "base_steps": config.get("steps", 0)}
    result = out / file_name(arm["name"], path)
    save_arm(result, about, tensors, network.state_dict(), memory)
    return result


def _model(config: dict, codec: ConvCodec, network: RoomsNetwork, arm: str, memory: Memory) -> RoomsBackbone:
    return RoomsBackbone.of(config, pack(codec, network), arm, memory)


def _check(path: Path, config: dict, settings: dict) -> None:
    if settings["compile"]:
        raise ValueError("compile=true: the windows of an arm's training differ from clip to clip, which a compiler would meet anew every time; use false")
    if settings["codec"]["phases"]:
        raise ValueError("codec.phases: an arm's codec is its base's; use codec.phases=[]")
    if (named := settings["arm"]["policy"].get("arm")) != settings["arm"]["name"]:
        raise ValueError(f"arm.name={settings['arm']['name']}, but arm.policy names the arm {named}; use arm=NAME, which sets both")
    side, levels = settings["world"]["size"] // 8, list(settings["denoiser"]["levels"])
    theirs = {"world.size": [8 * n for n in config["grid"]], "frames a chunk": [config["chunk"]], "denoiser.levels": list(config["levels"])}
    mine = {"world.size": [8 * side] * 2, "frames a chunk": [CHUNK], "denoiser.levels": levels}
    if differ := [name for name in mine if mine[name] != theirs[name]]:
        named = "; ".join(f"{name}: {theirs[name]} there and {mine[name]} in the settings" for name in differ)
        raise ValueError(f"{path} is another model than the settings describe ({named}); give its own settings, or another start=FILE")
