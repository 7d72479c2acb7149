"""The `rooms` backbone: the small world model that this project trains and ships. Runs on a CPU."""

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from backbones.codecs import ConvCodec
from backbones.rooms_arms import arm_file, load_arm, memory_of
from backbones.rooms_geometry import DepthHead, GeometryMemory
from backbones.rooms_memory import Memory
from backbones.rooms_network import RoomsNetwork, ray_angles, ray_features, ray_positions
from backbones.rope import rotate
from harness.backbone import Backbone, KVSeam
from harness.datatypes import Chunk, Condition, Geometry
from harness.settings.ranges import Device, Seed
from harness.system.devices import chosen_device
from harness.system.files import write_bytes
from harness.trajectory import Trajectory
from harness.worlds.poses import rays, relative

WEIGHTS = Path(__file__).parent / "weights" / "rooms.safetensors"
Precision = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class RoomsBackbone(Backbone):
    """Chunks of 3 latent frames of 8x8 tokens (64x64 pixels), four denoising passes.

    weights: a safetensors file whose metadata hold the sizes. device: cpu, cuda or auto. dtype: of network and cache. compile: the
    network by torch.compile, which needs a C++ compiler (frames within 1e-4 of the plain network's). arm: weights that were trained on for
    one kind of memory, by name (a file beside the base's) or as a file; a policy that needs them names its arm.
    Raises FileNotFoundError or ValueError for weights that are missing, damaged or of another shape.
    """

    _origin: Path | None = None  # the base's file, beside which its arms lie

    def __init__(
        self, weights: str | Path | None = None, device: Device = "auto", dtype: Precision = "float32", compile: bool = False, arm: str | None = None
    ) -> None:
        path = self._origin = Path(weights or WEIGHTS)
        config, tensors = load_weights(path)
        memory = Memory()
        if arm is not None:
            self.arm, tensors, memory = load_arm(arm, path, config, tensors)
        self._setup(config, chosen_device(device), DTYPES[dtype], memory)
        self._load(tensors, str(path))
        if compile:
            self.network.compile_blocks()

    def _setup(self, config: dict, device: torch.device, dtype: torch.dtype, memory: Memory) -> None:
        rows, cols = config["grid"]
        self.size = (rows * 8, cols * 8)
        self.grid = (rows, cols)
        self.channels = config["codec"]["channels"]
        self.timesteps = tuple(config["levels"])
        self.codec = ConvCodec(**config["codec"])
        self.network = RoomsNetwork(channels=self.channels, tokens=rows * cols, **config["network"])
        self.memory, self.repeatable, self.remembers = memory, memory.repeatable, memory.remembers
        for module in (self.codec, self.network, self.memory):
            module.eval().requires_grad_(False).to(device)
        self.network.to(dtype)
        net = config["network"]
        self.geometry = Geometry(net["layers"], net["heads"], net["width"] // net["heads"], rows * cols, config["chunk"], 1, dtype, device, cols)

    def _load(self, tensors: dict[str, Tensor], origin: str) -> None:
        """Strict: every tensor that the config asks for, and no other."""
        for prefix, module in (("codec.", self.codec), ("network.", self.network)):
            part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            try:
                module.load_state_dict(part)
            except RuntimeError as error:
                raise ValueError(f"{origin} does not fit its own config; restore it (git checkout) or train anew. {error}") from error

    @classmethod
    def of(cls, config: dict, tensors: dict[str, Tensor], arm: str | None = None, memory: Memory | None = None) -> "RoomsBackbone":
        """A model from its config and tensors, on the CPU: how training looks at its own samples. memory: of the arm in training, which is copied."""
        made = cls.__new__(cls)
        made.arm = arm
        made._setup(config, torch.device("cpu"), torch.float32, Memory() if memory is None else deepcopy(memory))
        made._load(tensors, "the model in training")
        return made

    jumps = True  # poses are rays

    def begin(self, trajectory: Trajectory) -> None:
        if trajectory.given < self.geometry.chunk:
            need = self.geometry.chunk
            found = f"{trajectory.name} gives {trajectory.given} image(s), but this model starts from a whole chunk of {need}"
            raise ValueError(f"{found}; hold the first one: world.lead_in={need - 1} (world=recorded)")
        self.memory.begin()

    @property
    def state_bytes(self) -> int:
        return self.memory.nbytes

    def state(self) -> dict:
        """What an arm's memory holds. Without one nothing: frames are decoded one by one, and the past is in the window and the bank alone."""
        return {"memory": held} if (held := self.memory.state()) else {}

    def restore(self, state: dict) -> None:
        self.memory.restore(state.get("memory", {}))

    def condition(self, trajectory: Trajectory, chunk: Chunk) -> Condition:
        device = self.geometry.device
        c2w = relative(chunk.c2w, trajectory.c2w[0])
        origin, direction = rays(c2w, chunk.intrinsics, self.grid, self.grid[0] / trajectory.images.shape[-2])
        times = torch.arange(chunk.start, chunk.start + len(c2w), dtype=torch.float32)
        features = ray_features(origin, direction)[None].to(device)
        return Condition(ray_positions(times, direction).flatten(0, 1).to(device), (features, *self.memory.look(self.codec, trajectory, chunk, c2w)))

    def denoise(self, x: Float[Tensor, "b f s c"], t: float, condition: Condition, kv: KVSeam) -> Float[Tensor, "b f s c"]:
        level, dtype = torch.full(x.shape[:2], t, device=x.device), self.geometry.dtype
        features, *more = condition.inputs
        seam = self.memory.seam(kv, features, t == 0)
        x0 = self.network(x.to(dtype), level, features.to(dtype), seam, more[0].to(dtype) if more else None).float()
        if t == 0:
            self.memory.keep(self.codec, x, tuple(more))
        return x0

    def renoise(self, x0: Tensor, t: float, noise: Tensor) -> Tensor:
        return torch.lerp(x0, noise, t)

    def rope(self, positions: Float[Tensor, "*l n 3"]) -> Callable[..., Tensor]:
        angles = ray_angles(positions)[..., None, :]
        return partial(rotate, cos=angles.cos(), sin=angles.sin())

    def encode(self, frames: Float[Tensor, "p 3 y x"]) -> Float[Tensor, "f s c"]:
        if tuple(frames.shape[-2:]) != self.size:
            raise ValueError(
                f"frames are {tuple(frames.shape[-2:])} pixels, the model works at {self.size}; set world.size={list(self.size)} or resize the images"
            )
        return self.codec.encode(frames.to(self.geometry.device)).flatten(2).transpose(1, 2)

    def depth(self, latents: Float[Tensor, "b f s c"]) -> Float[Tensor, "f v u"] | None:
        """By the head that was trained beside the arm `geometry`, on the codec that all arms share; None where that arm is not there."""
        if self.depth_head is None:
            return None
        return self.depth_head(latents[0].float().transpose(1, 2).unflatten(2, self.grid)).cpu()

    @cached_property
    def depth_head(self) -> DepthHead | None:
        found = self._find_depth_head()
        return found.eval().requires_grad_(False).to(self.geometry.device) if found else None

    def _find_depth_head(self) -> DepthHead | None:
        if isinstance(self.memory, GeometryMemory):
            return self.memory.depth
        if self._origin is None or not arm_file("geometry", self._origin)[1].is_file():
            return None
        memory = load_arm("geometry", self._origin, *load_weights(self._origin))[2]
        assert isinstance(memory, GeometryMemory)
        return memory.depth

    def decode(self, latents: Float[Tensor, "f s c"]) -> Float[Tensor, "p 3 y x"]:
        return self.codec.decode(latents.transpose(1, 2).unflatten(2, self.grid)).clamp(0, 1).cpu()


class TinyRoomsBackbone(RoomsBackbone):
    """An untrained one for tests: 3 layers, a 2x3 grid of tokens, weights from a seed, and so is an arm's memory. Everything but quality is real."""

    def __init__(self, seed: Seed = 0, device: Device = "cpu", dtype: Precision = "float32", arm: str | None = None) -> None:
        config = {
            "grid": (2, 3),
            "chunk": 3,
            "levels": (1.0, 0.7),
            "codec": {"channels": 4, "width": 4},
            "network": {"width": 64, "layers": 3, "heads": 2, "mlp": 2},
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.arm, memory = arm, Memory() if arm is None else memory_of(arm, config)
            self._setup(config, chosen_device(device), DTYPES[dtype], memory)
            for module in (self.network.modulation, self.network.head_modulation, self.network.head):
                torch.nn.init.normal_(module.weight, std=0.3)
            for weights in memory.parameters():
                if not weights.any():  # an arm begins shut: what is zero would hide it
                    torch.nn.init.normal_(weights, std=0.3)
            self._depth = DepthHead(self.channels, 8)

    def _find_depth_head(self) -> DepthHead | None:
        return self._depth


def weight_files(settings: Mapping[str, Any]) -> dict[str, Path]:
    """The files that a backbone's settings name, by setting; the tiny one has none."""
    if str(settings.get("_target_")).endswith(TinyRoomsBackbone.__name__):
        return {}
    base = Path(settings.get("weights") or WEIGHTS)
    return {"weights": base} | ({"arm": arm_file(arm, base)[1]} if (arm := settings.get("arm")) else {})


def pack(codec: ConvCodec, network: RoomsNetwork) -> dict[str, Tensor]:
    """The tensors of a weights file."""
    parts = (("codec.", codec), ("network.", network))
    return {prefix + k: v.detach().cpu().contiguous() for prefix, module in parts for k, v in module.state_dict().items()}


def save_weights(path: Path, config: dict, tensors: dict[str, Tensor]) -> None:
    """Write a weights file in float16 (half the size; the values' error is below that of training)."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    write_bytes(path, save(half, {"config": json.dumps(config)}), "free some space and run the same command again", flush=True)


def load_weights(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """Config and tensors of a weights file. Raises FileNotFoundError or ValueError, with the remedy."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}; the shipped file comes with the checkout (git checkout -- {path.name}), or train your own: python harness/train.py"
        )
    try:
        with safe_open(path, "pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118  (not a dict)
            return json.loads(file.metadata()["config"]), {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a rooms model ({error}); restore it (git checkout) or train anew: python harness/train.py") from error
