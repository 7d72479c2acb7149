"""The console command: worldkv run|sweep|score|replay|report|play|bench|train|calibrate|dashboard|docs ARGUMENTS, each as python harness/NAME.py ARGUMENTS."""

import sys
from importlib import import_module

from harness.settings.entry_point import usage
from harness.settings.packages import check_packages

COMMANDS = {  # name -> the module whose `main` reads the arguments; imported when it is chosen, since some take seconds
    "run": "harness.evaluation.command",
    "sweep": "harness.sweeping.local",
    "score": "harness.scoring.command",
    "replay": "harness.replaying.command",
    "report": "harness.reporting.command",
    "play": "harness.playing.command",
    "bench": "harness.benchmark.command",
    "train": "harness.training.command",
    "calibrate": "harness.training.calibrate",
    "dashboard": "harness.tracking.workspace",
    "docs": "harness.reporting.documents",
}


def main() -> None:
    """Run the command that the first argument names; the others are its own. Exits with status 2 for an unknown one."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in COMMANDS:
        usage(f"error: there is no command {name!r}; use one of {', '.join(COMMANDS)}")
    check_packages()
    sys.argv[:2] = [f"worldkv {name}"]
    import_module(COMMANDS[name]).main()


if __name__ == "__main__":
    main()
