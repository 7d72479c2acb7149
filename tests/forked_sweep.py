"""`python harness/sweep.py`, whose points are forks of the command itself (tests/commands.py), which has imported everything. The command's
own way, a process that imports everything anew for all points, takes 10 s and is tested in test_sweep_kills.py and test_entry_points.py."""

import multiprocessing
import sys

from harness.settings.entry_point import entry_point
from harness.sweeping.local import sweep


@entry_point("the same command goes on")
def main() -> None:
    sweep(sys.argv[1:], multiprocessing.get_context("fork"))


if __name__ == "__main__":
    main()
