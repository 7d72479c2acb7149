"""The main job: evaluate one KV-cache policy on revisit trajectories.

python harness/run.py policy=worldkv        (--help lists the choices and settings)
"""

import sys

if __name__ == "__main__" and not __package__:
    # run as a script, harness/ itself comes first on the path, and harness/types.py would shadow the standard library's
    sys.path[0] = sys.path[0].removesuffix("harness")

import os  # noqa: E402

import hydra  # noqa: E402
from hydra.core.hydra_config import HydraConfig  # noqa: E402
from hydra.errors import InstantiationException  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from harness.cli import CONF, check_overrides, label_of  # noqa: E402


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _main(cfg: DictConfig) -> None:
    if cfg.logger not in ("auto", "online", "offline", "none"):
        raise SystemExit(f"logger={cfg.logger}: use auto, online, offline or none")
    from harness.evaluate import evaluate  # takes 5 s to import (torch, lightning): --help and typos are answered before

    hydra_config = HydraConfig.get()
    choices = {k: str(v) for k, v in hydra_config.runtime.choices.items()}
    try:
        evaluate(cfg, choices, label_of(cfg, choices, hydra_config.overrides.task))
    except (ValueError, OSError, InstantiationException) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        ours = error.__cause__ if isinstance(error, InstantiationException) else None  # Hydra wraps what a constructor raised
        raise SystemExit(f"error: {ours or error}") from None


def main() -> None:
    """Entry point of the script and of the `worldkv-harness` command."""
    check_overrides(CONF, sys.argv[1:])
    _main()


if __name__ == "__main__":
    main()
