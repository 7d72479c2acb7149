"""Label the heads of a backbone for policy=heads. python harness/calibrate.py backbone=rooms"""

from harness.training.calibrate import main

if __name__ == "__main__":
    main()
