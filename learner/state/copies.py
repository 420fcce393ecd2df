"""What a copy or a pickle of a learner holds."""

from __future__ import annotations

from typing import Any

from learner.state import pass_modes
from learner.state.position import Place

#: Not copied: functions of the original's callbacks, where a fit is, and the last batch, whose tensors may
#: belong to a graph.
LEFT_OUT = (
    *("_on", "_do", "_at", "_begun", "_resume", "_mark", "told", "error", "fitting", "interrupted"),
    *("batch", "inputs", "targets", "preds", "loss_grad", "_loss", "_detached", "_value"),
)


def state_of(learn: Any) -> dict[str, Any]:
    """The attributes that a copy gets.

    Raises:
        RuntimeError: a fit is under way.
    """
    if learn.fitting:
        raise RuntimeError(
            "a learner cannot be copied or pickled in the middle of a fit: do it before or after, or "
            "keep what it holds now with learn.snapshot() or learn.save(path)."
        )
    kept = {name: value for name, value in vars(learn).items() if name not in LEFT_OUT}
    return {**kept, "left_in_evaluation_mode": pass_modes.names_left(learn.model)}


def put_state(learn: Any, state: dict[str, Any]) -> None:
    """Give a copy its attributes, and connect it to its own callbacks."""
    names = state.pop("left_in_evaluation_mode")
    vars(learn).update(state, told=set())
    pass_modes.remember_left(learn.model, names)
    learn._at, learn._begun = Place(), []
    learn._set_callbacks(learn.callbacks)
