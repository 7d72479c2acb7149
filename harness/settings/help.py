"""The answer to --help. Hydra's own takes three times as long: it copies its search path anew for every config group."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether help is all that is asked for, maybe under some choices (`policy=full --help`). Other flags are Hydra's to answer."""
    flags = {a for a in arguments if a.startswith("-")}
    return bool(flags) and flags <= {"--help", "-h"}


def help_text(conf: Path, config: str, overrides: Sequence[str]) -> str:
    """The config's own help template, with every group's options and the settings under these overrides. Raises HydraException."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose(config, list(overrides), return_hydra_config=True)
    shown = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    return Template(cfg.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS="\n".join(_groups(conf)) + "\n", CONFIG=OmegaConf.to_yaml(shown))


def _groups(conf: Path) -> Iterator[str]:
    for folder in sorted(p for p in conf.rglob("*") if p.is_dir()):
        name = folder.relative_to(conf).as_posix()
        options = sorted(p.stem for p in folder.glob("*.yaml"))
        if options and not name.startswith("hydra"):
            yield f"{name}: {', '.join(options)}"
