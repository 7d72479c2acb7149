"""Walk through the world model in the browser. python harness/play.py policy=worldkv,sliding"""

from harness.playing.command import main

if __name__ == "__main__":
    main()
