"""Train the `rooms` world model from nothing. python harness/train.py"""

from harness.training.command import main

if __name__ == "__main__":
    main()
