"""Arguments of a scheduler of torch that differ when a run resumes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from callbacks.core.warning import warn


def check_unchanged(made: Any, position: Mapping[str, Any]) -> None:
    """Warn of arguments of a scheduler that the state of the run replaces, as `load_state_dict` does."""
    for inner, state in zip(getattr(made, "_schedulers", ()), position.get("_schedulers", ()), strict=False):
        check_unchanged(inner, state)
    if not type(made).__module__.startswith("torch."):
        return  # your own class may change its arguments
    for name in inspect.signature(type(made)).parameters:
        now, then = getattr(made, name, None), position.get(name)
        if name != "last_epoch" and isinstance(then, (int, float, str)) and now != then:
            warn(
                f"TorchScheduler: the {type(made).__name__} of this run has {name}={then!r} and continues "
                f"with it, so {name}={now!r} has no effect. To use it, train the weights in a new run."
            )
