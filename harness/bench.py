"""Measure where the time of a chunk goes. python harness/bench.py"""

from harness.benchmark.command import main

if __name__ == "__main__":
    main()
