"""`python -m learner` is the command `learner`."""

import sys

from learner.cli import main

sys.exit(main())
