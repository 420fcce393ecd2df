"""Replay under the path that users import; the code is in `tools/replay.py`."""

from learner.tools.replay import replay

__all__ = [
    "replay",
]
