"""Score videos that other systems made: python harness/score.py FOLDER

  system=NAME         what tables call it (default: the folder's name)
  world.truth=DIR     a benchmark's own data (poses, true videos), or true films laid out as FOLDER
  world.layout=NAME   plain, mind, memobench or wrbench (default: what the folder looks like)
  world.size=[480,832] rows and columns to compare at (default: each video's own)
  any other setting of world=videos, metric=, name=, run_dir=, seed=, videos=, overwrite= (harness/run.py --help lists them)

A run folder comes out, as of the main job: pairs of revisits from the poses, PSNR, SSIM, LPIPS, floor, true view; tables and the report show it
beside other runs of its experiment (name=) as "external: cost not measured here". FOLDER/cost.json may tell timings.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.settings.build import build, plain
from harness.settings.check import check_fields
from harness.settings.command_line import CONF, check_overrides, composed, understood
from harness.settings.entry_point import entry_point, usage
from harness.settings.main_job import GROUPS, MainSettings
from harness.settings.plugins import plugins_of

OURS = ("system",)


@entry_point("run it again: what was written is whole")
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the script and of `worldkv score`: exit status 0 where every video is scored, 1 where one is not or none has a revisit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    folders = [a for a in given if "=" not in a and not a.startswith("-")]
    if {"-h", "--help"} & set(given):
        print(__doc__)
        return
    if len(folders) != 1:  # a path may have a =, and is then no setting
        folders = [a for a in given if Path(a).expanduser().is_dir()]
    if len(folders) != 1:
        usage(f"error: give one folder of videos\n{__doc__}")
    folder = Path(folders[0]).expanduser()
    overrides = understood([a for a in given if a != folders[0] and a.split("=")[0] not in OURS])
    system = next((a.partition("=")[2] for a in given if a.startswith("system=")), folder.resolve().name)
    fixed = understood(["world=videos", f"world.folder={folder}"])
    check_overrides(CONF, [*fixed, *overrides])
    cfg, _ = composed(CONF, [*fixed, *overrides])
    settings = plain(cfg)
    check_fields({k: v for k, v in settings.items() if k not in GROUPS}, MainSettings)
    packages = plugins_of([f"plugins=[{','.join(settings['plugins'])}]"])
    from harness.scoring.score import score  # torch takes seconds: --help and typos are answered before

    if why := score(settings, lambda part: build(part, "world or metric", plugins=packages), system, folder):
        raise SystemExit(f"error: {why}")


if __name__ == "__main__":
    main()
