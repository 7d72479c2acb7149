"""Where official checkpoints come from, and what to say of those that are missing."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class Source:
    """One download of those that make up a checkpoint.

    repo: its id on Hugging Face. files: patterns within it. layout: the files that are used, and what they are.
    into: the folder that it goes to, below the checkpoint's.
    """

    repo: str
    files: tuple[str, ...]
    layout: str
    into: str = ""

    def command(self, folder: Path) -> str:
        included = " ".join(f"--include {shlex.quote(pattern)}" for pattern in self.files)
        return f"hf download {self.repo} {included} --local-dir {shlex.quote(str(folder / self.into))}"

    def supplies(self, name: str) -> bool:
        """Whether a file or folder below the checkpoint's folder comes with this download."""
        patterns = [str(PurePosixPath(self.into, pattern)) for pattern in self.files]
        return any(fnmatch(name, pattern) or pattern.startswith(f"{name}/") for pattern in patterns)


# Layouts: huggingface.co/Skywork/Matrix-Game-2.0 (one of the three models is enough) and huggingface.co/robbyant.
MATRIX_GAME_2 = (
    Source("Skywork/Matrix-Game-2.0", ("base_distilled_model/*",), "base_distilled_model/base_distill.safetensors (universal)"),
    Source("Skywork/Matrix-Game-2.0", ("gta_distilled_model/*",), "gta_distilled_model/gta_keyboard2dim.safetensors (gta_drive)"),
    Source("Skywork/Matrix-Game-2.0", ("templerun_distilled_model/*",), "templerun_distilled_model/templerun_7dim_onlykey.safetensors (templerun)"),
    Source(
        "Skywork/Matrix-Game-2.0",
        ("Wan2.1_VAE.pth", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"),
        "Wan2.1_VAE.pth (codec)\nmodels_clip_open-clip-xlm-roberta-large-vit-huge-14.pth (image encoder)",
    ),
)
LINGBOT_WORLD_FAST = (
    Source(
        "robbyant/lingbot-world-base-cam",
        ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*"),
        "Wan2.1_VAE.pth (codec)\nmodels_t5_umt5-xxl-enc-bf16.pth (text encoder)\ngoogle/umt5-xxl/ (its tokenizer)",
    ),
    Source(
        "robbyant/lingbot-world-fast",
        ("diffusion_pytorch_model*", "config.json"),
        "lingbot_world_fast/diffusion_pytorch_model.safetensors.index.json, and the shards that it names (network, 37 GB in bfloat16)",
        "lingbot_world_fast",
    ),
)
SELF_FORCING = (
    Source("gdhe17/Self-Forcing", ("checkpoints/self_forcing_dmd.pt",), "checkpoints/self_forcing_dmd.pt (network)"),
    Source(
        "Wan-AI/Wan2.1-T2V-1.3B",
        ("Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/*"),
        "Wan2.1_VAE.pth (codec)\nmodels_t5_umt5-xxl-enc-bf16.pth (text encoder)\ngoogle/umt5-xxl/ (its tokenizer)",
    ),
)


def missing_message(sources: Sequence[Source], folder: Path) -> str:
    """The commands that download all of these into the folder, and what it holds afterwards."""
    commands = [f"  {source.command(folder)}" for source in sources]
    layout = [f"  {line}" for source in sources for line in source.layout.splitlines()]
    return "\n".join(["Download (the command comes with pip install 'huggingface_hub>=1'):", *commands, f"Layout of {folder}:", *layout])


def require(folder: Path, names: Sequence[str], sources: Sequence[Source]) -> None:
    """Raise FileNotFoundError, with the downloads that help, unless all these files and folders are below the folder."""
    absent = [name for name in names if not (folder / name).exists()]
    if absent:
        helpful = [source for source in sources if any(source.supplies(name) for name in absent)]
        raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}.\n{missing_message(helpful or sources, folder)}")
