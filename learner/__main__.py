"""`python -m learner` is the command `learner`."""

import sys

from learner.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
