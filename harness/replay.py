"""What selectors and bounded banks bring back, on poses alone. python harness/replay.py"""

from harness.replaying.command import main

if __name__ == "__main__":
    main()
