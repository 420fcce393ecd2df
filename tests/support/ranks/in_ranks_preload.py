"""What the server of `in_ranks` imports once, so that each process has it."""

import preloaded
import pytest

needed = preloaded, pytest
