"""Run a W&B sweep file on this machine, without an account. python harness/sweep.py sweeps/budget_ratio.yaml"""

from harness.sweeping.local import main

if __name__ == "__main__":
    main()
