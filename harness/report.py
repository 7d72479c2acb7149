"""Compare the runs of an experiment. python harness/report.py outputs/EXPERIMENT"""

from harness.reporting.command import main

if __name__ == "__main__":
    main()
