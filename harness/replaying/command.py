"""What selectors, likenesses and bounded banks bring back along a path, on poses alone: nothing is generated, a tour takes a second.

python harness/replay.py policy=worldkv                              one policy on tours of held-out validation houses
python harness/replay.py policy=full,worldkv,coverage,random,oracle  several, in one table (-m says the same)
python harness/replay.py policy=places,kcentre world=houses_twins    bounded banks where rooms look alike
python harness/replay.py policy=worldkv policy.retrieved=3,6,9       any setting, every combination of lists
python harness/replay.py policy=worldkv world.chunks=1000 world.size=[16,16]   a long tour; small pictures, which nobody looks at
python harness/replay.py policy=latent recorded=FOLDER world.split=test   what looks at content: latents that run.py snapshot.save=FOLDER saved

Results go to outputs/NAME (name=replay), as of any run: python harness/report.py outputs/replay compares them. Policies whose pages hold rows
of many frames, or that look at attention, need a model: harness/run.py. Settings: conf/replay.yaml, and those of policy and world.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from harness.settings.build import plain
from harness.settings.check import check_fields
from harness.settings.command_line import CONF, label_of, swept, understood
from harness.settings.entry_point import entry_point
from harness.settings.main_job import Name, Threads
from harness.settings.packages import check_packages
from harness.settings.plugins import plugins_of, with_plugins
from harness.settings.ranges import Count, Le, Natural

GROUPS = ("budget", "policy", "world")
FEW = Annotated[Count, Le(100_000)]


@dataclass(frozen=True)
class ReplaySettings:
    """Those that belong to no group."""

    name: Name | int
    sink: Natural
    recent: Natural
    scored: FEW
    chunk: Annotated[Count, Le(1000)]
    stride: Annotated[Count, Le(1000)]
    tokens: FEW
    recorded: str | None
    threads: Threads
    plugins: Sequence[str]


@dataclass(frozen=True)
class Job:
    """One policy in one world. choices: the option of every group."""

    label: str
    choices: dict[str, str]
    settings: dict

    @property
    def own(self) -> dict:
        """The settings that belong to no group."""
        return {k: v for k, v in self.settings.items() if k not in GROUPS}


def jobs(arguments: Sequence[str]) -> list[Job]:
    """Every combination of the lists among the arguments. Raises HydraException for settings that there are not, ValueError for what they may not be."""
    overrides = with_plugins(arguments)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return [_job(list(chosen)) for chosen in swept(overrides)]
    finally:
        GlobalHydra.instance().clear()


def _job(overrides: list[str]) -> Job:
    cfg = compose("replay", overrides, return_hydra_config=True)
    if "split" in cfg.world and not any(o.startswith("world.split=") for o in overrides):  # what is tuned is tuned on validation seeds
        cfg = compose("replay", ["world.split=validation", *overrides], return_hydra_config=True)
    choices = {str(k): str(v) for k, v in cfg.hydra.runtime.choices.items()}
    own: DictConfig = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
    settings = plain(own)
    check_fields({k: v for k, v in settings.items() if k not in GROUPS}, ReplaySettings)
    return Job(label_of(own, choices, overrides), choices, settings)


@entry_point("run it again")
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the script and of `worldkv replay`."""
    given = [a for a in (sys.argv[1:] if arguments is None else arguments) if a not in ("-m", "--multirun")]
    if {"--help", "-h"} & set(given):
        print(__doc__)
        return
    check_packages()
    found = jobs(understood(given))
    packages = plugins_of([a for a in given if a.startswith("plugins=")])
    from harness.replaying.runs import run  # torch takes seconds: --help and typos are answered before

    run(found, packages)


if __name__ == "__main__":
    main()
