"""The state of a copy or a pickle of a learner."""

from __future__ import annotations

from typing import Any

from learner.state import pass_modes
from learner.state.attributes import BATCH_STATE
from learner.state.protocol import FullLearner

#: Not copied: how the last fit ended, and the last batch, whose tensors may belong to a graph.
LEFT_OUT = ("reported", "error", "fitting", "interrupted", *BATCH_STATE)


def state_of(learn: FullLearner) -> dict[str, Any]:
    """The attributes that a copy gets."""
    if learn.fitting:
        raise RuntimeError(
            "a learner cannot be copied or pickled in the middle of a fit: do it before or after, or save "
            "its current state with learn.snapshot() or learn.save(path)."
        )
    kept = {name: value for name, value in vars(learn).items() if name not in LEFT_OUT}
    return {**kept, "left_in_evaluation_mode": pass_modes.names_left(learn.model)}


def put_state(learn: FullLearner, state: dict[str, Any]) -> None:
    """Set the attributes of a copy, and connect its loop to its own callbacks."""
    names = state.pop("left_in_evaluation_mode")
    vars(learn).update(state, reported=set())
    pass_modes.remember_left(learn.model, names)
    learn.loop.connect(learn, learn.callbacks)
