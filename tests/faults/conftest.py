"""Which of these tests a platform can run."""

from __future__ import annotations

import sys

#: They fork, limit resources and fill file descriptors, which Windows has no names for.
collect_ignore = ["test_files.py", "test_folders.py"] if sys.platform == "win32" else []
