"""Score videos that other systems made. python harness/score.py FOLDER"""

from harness.scoring.command import main

if __name__ == "__main__":
    main()
