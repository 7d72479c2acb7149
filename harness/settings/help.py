"""The answer to --help. Hydra's own takes three times as long: it copies its search path anew for every config group."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from harness.settings.plugins import plugin_folders, with_plugins

ELSEWHERE = ("hydra", "arm", "modes")  # Hydra's own, and those of harness/train.py and of harness/bench.py alone


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether help is all that is asked for, maybe under some choices (`policy=full --help`). Other flags are Hydra's to answer."""
    flags = {a for a in arguments if a.startswith("-")}
    return bool(flags) and flags <= {"--help", "-h"}


def help_text(conf: Path, config: str, overrides: Sequence[str]) -> str:
    """The config's own help template, with every group's options and the settings under these overrides. Raises HydraException."""
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose(config, with_plugins(overrides), return_hydra_config=True)
    shown = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    groups = "\n".join(_groups([conf, *plugin_folders(overrides)])) + "\n"
    return Template(cfg.hydra.help.template).safe_substitute(APP_CONFIG_GROUPS=groups, CONFIG=OmegaConf.to_yaml(shown))


def _groups(places: Sequence[Path]) -> Iterator[str]:
    options: dict[str, set[str]] = {}
    for place in places:
        for file in place.rglob("*.yaml"):
            options.setdefault(file.parent.relative_to(place).as_posix(), set()).add(file.stem)
    for group in sorted(options):
        if group != "." and not group.startswith(ELSEWHERE):
            yield f"{group}: {', '.join(sorted(options[group]))}"
