"""Build a W&B workspace and report of an experiment. python harness/dashboard.py EXPERIMENT"""

from harness.tracking.workspace import main

if __name__ == "__main__":
    main()
