"""The main job: evaluate one KV-cache policy on revisit trajectories. python harness/run.py policy=worldkv"""

from harness.evaluation.command import main

if __name__ == "__main__":
    main()
