"""The state of a loss that is a module: what is saved, whether it fits, and how it is restored."""

from __future__ import annotations

from typing import Any

from callbacks.core.modules import LOSS, loss_module
from callbacks.model.lazy import shape_problems
from callbacks.model.module_state import put_state, state_of
from callbacks.model.named import named_tensors
from learner.data.tensors import counted
from learner.state.identity import is_same
from learner.state.moved_numbers import moved_in
from learner.state.protocol import FullLearner


def loss_state(learn: FullLearner) -> dict[str, Any] | None:
    """The state of a loss that is a module, without the tensors that the model's state holds."""
    module = loss_module(learn.loss_func)
    if module is None or any(module is part for part in learn.model.modules()):
        return None
    state = state_of(module, without=named_tensors(learn.model).values())
    trained = [name for name, _ in module.named_parameters() if name in state["tensors"]]
    return {**state, "parameters": trained}


def check_loss(learn: FullLearner, state: dict[str, Any] | None) -> None:
    """Check that a state with parameters is of this loss."""
    if state is None or not state["parameters"]:
        return
    problems = loss_problems(learn, state)
    if problems:
        raise ValueError(
            "the snapshot is from another loss: "
            f"{counted(len(problems), 'tensor differs', 'tensors differ')}, as {LOSS}.{problems[0]}. "
            "Assign that loss first, learn.loss_func = ..., or take a new snapshot."
        )


def put_loss(learn: FullLearner, snapshot: dict[str, Any]) -> None:
    """Restore the state of a loss. The buffers of another loss without parameters stay unchanged."""
    state, module = snapshot.get(LOSS), loss_module(learn.loss_func)
    if state is None or module is None or loss_problems(learn, state):
        return
    if "objects" not in snapshot or state["parameters"] or is_same(module, snapshot["objects"][LOSS]):
        put_state(module, state, named_tensors(learn.model).values(), moved_in(snapshot, LOSS))


def loss_problems(learn: FullLearner, state: dict[str, Any]) -> list[str]:
    """The names of the tensors in which the loss differs from that of a state."""
    module = loss_module(learn.loss_func)
    shapes = {name: tuple(each.shape) for name, each in state["tensors"].items()}
    if module is None or loss_state(learn) is None:
        return list(shapes)
    without = named_tensors(learn.model).values()
    return list(shape_problems(module, shapes, state["empty"], without))
