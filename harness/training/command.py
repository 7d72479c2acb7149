"""Train the `rooms` world model from nothing, or an arm of one: python harness/train.py  (settings: conf/experiment/train_rooms.yaml)."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from harness.settings.command_line import CONF, understood
from harness.settings.entry_point import end, entry_point
from harness.settings.help import asks_for_help, help_text

CONFIG = "experiment/train_rooms"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name=CONFIG)
def _main(cfg: DictConfig) -> None:
    try:
        from harness.training.train import train  # torch and Lightning take seconds: --help and typos are answered before

        path = train(cfg)
    except Exception as error:  # noqa: BLE001  (Hydra would print its own account)
        end(error)
    print(f"weights: {path} (use them: python harness/run.py {use_of(cfg, path)})")


def use_of(cfg: DictConfig, path: Path) -> str:
    """The settings under which a run uses the weights that were made. An arm's go with those of its base."""
    if cfg.arm is None:
        return f"backbone.weights={path}"
    return " ".join([f"policy=trained_{cfg.arm.name}", *([f"backbone.weights={cfg.start}"] if cfg.start else []), f"backbone.arm={path}"])


@entry_point("the same command goes on from its last checkpoint")
def main() -> None:
    """Entry point of the script and of `worldkv train`."""
    sys.argv[1:] = arguments = understood(sys.argv[1:])
    if asks_for_help(arguments):
        print(help_text(CONF, CONFIG, [a for a in arguments if not a.startswith("-")]), end="")
        return
    _main()
