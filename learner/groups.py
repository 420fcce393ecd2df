"""Splitters of layer groups under the path that users import; the code is in `engine/groups.py`."""

from learner.engine.groups import body_and_head, by_children

__all__ = [
    "body_and_head",
    "by_children",
]
