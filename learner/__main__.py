"""`python -m learner` is the command `learner`."""

import gc
import sys

from learner.cli.commands import main


def start() -> int:
    """Run the command line as the program of this process, and return its exit code."""
    # What the imports have created lasts as long as the process. Otherwise each of several full collections,
    # and two at exit, would look through it, 0.1 s at a time.
    gc.freeze()
    return main()


if __name__ == "__main__":
    sys.exit(start())
