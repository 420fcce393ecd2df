"""Refuse to lose the saved state of a callback that is missing, or of an object that is made too late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from callbacks.core.contract import Callback
from callbacks.core.when import When
from callbacks.model.declared import is_marked
from learner.messages.problems import listed
from learner.state.protocol import FullLearner

AGAIN = ("before_epoch", "before_train")  # a callback with these may make its objects again in each epoch


def check_callbacks(learn: FullLearner, contents: dict[str, Any], path: Path) -> None:
    """Raise an error for the state of a callback that was added during the fit and is missing now."""
    states = contents["callbacks"]
    lost = [name for name, state in states.items() if state and name not in learn.callbacks]
    if lost:
        raise ValueError(
            f"{path} contains the state of the callback {lost[0]!r}, which was added during the "
            "fit and is missing now. Pass it to the Learner or to fit, or add it in a before_fit. To "
            "resume without its state: allow=('callbacks',)."
        )


def check_objects(learn: FullLearner, contents: dict[str, Any], path: Path, *, in_pass: bool) -> None:
    """Raise an error for the state of a module, an optimizer or the like that does not exist yet.

    Args:
        learn: the learner, which has been restored.
        contents: of the checkpoint.
        path: its file, for the message.
        in_pass: is the pass that continues set up, so that no object can appear in `before_train` any more?
    """
    lost = list(lost_objects(learn, contents, in_pass=in_pass))
    if lost:
        do, it = ("does", "it") if len(lost) == 1 else ("do", "them")
        raise ValueError(
            f"{path} contains the state of {listed(lost)}, which {do} not exist when the run resumes: create "
            f"{it} in __init__ or before_fit, not in a later event. To resume without this state: "
            "allow=('callbacks',)."
        )


def lost_objects(learn: FullLearner, contents: dict[str, Any], *, in_pass: bool) -> Iterator[str]:
    """The attributes of callbacks and of the learner whose saved state has no object to be loaded into."""
    owners: list[tuple[Any, Any]] = [(learn, contents.get("learner"))]
    owners += [(each, state_in(contents["callbacks"].get(each.name))) for each in learn.callbacks]
    for owner, values in owners:
        may_come = isinstance(owner, Callback) and any(map(owner.listens_to, AGAIN)) and not in_pass
        if not isinstance(values, dict) or may_come:
            continue
        for name, value in values.items():
            if name in owner.state and is_marked(value) and getattr(owner, name, None) is None:
                yield f"{type(owner).__name__}.{name}"


def state_in(saved: Any) -> Any:
    """The state of a callback, even of one in a window, which saves it together with its own."""
    while isinstance(saved, dict) and saved.keys() == set(When.state):
        saved = saved["inner"]
    return saved
