"""Make sure that `callbacks` is the package that ships with this one, before anything is imported from it."""

from __future__ import annotations

import importlib.util
from pathlib import Path


def check_sibling() -> None:
    """Check that no other `callbacks` module is found before ours.

    Raises:
        ImportError: names the other module, and how to fix it.
    """
    ours = Path(__file__).resolve().parents[1] / "callbacks" / "__init__.py"
    found = importlib.util.find_spec("callbacks")
    origin = found.origin if found is not None else None
    if origin is None or Path(origin).resolve() != ours:
        raise ImportError(
            f"`import callbacks` finds {origin or 'no package'}, not {ours}, which learner needs. "
            "If the first one is yours, rename it (for example to my_callbacks.py) or start Python from "
            "another folder. If it belongs to another distribution, install plainlearner in a separate "
            "environment."
        )
