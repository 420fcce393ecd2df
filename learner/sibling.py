"""Make sure that `callbacks` is the package that ships with this one, before anything is imported from it."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def check_sibling() -> None:
    """Refuse a `callbacks.py` of somebody else's that stands in the way of ours.

    Raises:
        ImportError: names the file in the way, and the cure.
    """
    ours = Path(__file__).resolve().parents[1] / "callbacks" / "__init__.py"
    found = importlib.util.find_spec("callbacks")
    origin = found.origin if found is not None else None
    if origin is None or Path(origin).resolve() != ours:
        raise ImportError(
            f"`import callbacks` finds {origin or 'no package'}, not {ours}, which learner needs. "
            "If the first is yours, rename it (to my_callbacks.py, say) or start Python from another folder; "
            "if it is another distribution's, give plainlearner an environment of its own."
        )
