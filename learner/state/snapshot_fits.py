"""Check that a snapshot belongs to a learner, before anything is changed."""

from __future__ import annotations

from typing import Any

import torch

from callbacks.core.modules import LOSS
from callbacks.model.lazy import shape_problems
from callbacks.model.named import named_tensors
from callbacks.optim.optimizers import check_kinds, is_made, members_of
from callbacks.optim.saved_state import has_torch_form
from learner.data.tensors import counted
from learner.state.identity import is_same
from learner.state.loss_state import check_loss
from learner.state.protocol import FullLearner


def check_fits(learn: FullLearner, snapshot: dict[str, Any]) -> None:
    """Raise an error for a snapshot of another model, before anything is changed."""
    if not isinstance(snapshot, dict) or "model" not in snapshot:
        raise ValueError(f"restore got {type(snapshot).__name__}: pass what learn.snapshot() returned.")
    then = {name: tuple(tensor.shape) for name, tensor in snapshot["model"].items()}
    problems = shape_problems(learn.model, then, snapshot.get("empty", {}))
    if problems and is_same(learn.model, snapshot.get("objects", {}).get("model")):
        problems = without_restorable(learn.model, problems, snapshot)
    if problems:
        name = next(iter(problems))
        then_shape, now_shape = problems[name]
        differing = counted(len(problems), "tensor differs", "tensors differ")
        raise ValueError(
            f"the snapshot is from another model: {differing}, such as {name!r} (shape {then_shape} then, "
            f"{now_shape} now)."
        )
    check_loss(learn, snapshot.get(LOSS))
    check_optimizer(learn.optimizer, snapshot)


def without_restorable(
    model: torch.nn.Module, problems: dict[str, tuple[Any, Any]], snapshot: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The problems without those that a snapshot of the same model object can undo.

    Those are lazy parameters that had no values, and buffers that the forward pass has replaced.
    """
    waiting = {id(tensor) for each in snapshot["lazy"] for tensor, _, _ in each.tensors}
    waiting |= {id(each) for each in model.buffers()}
    named = named_tensors(model)
    return {
        name: each for name, each in problems.items() if name not in named or id(named[name]) not in waiting
    }


def check_optimizer(optimizer: Any, snapshot: dict[str, Any]) -> None:
    """Raise an error for the state of another optimizer class or other groups, before anything is changed."""
    state = snapshot["optimizer"]
    if optimizer is None or state is None:
        return
    kind, then = title_of(optimizer), snapshot.get("optimizer_kind")
    if then not in (None, kind):
        raise ValueError(
            f"the snapshot is from another optimizer: {then} then, {kind} now. Assign an optimizer of "
            "that class first, learn.optimizer = ..., or take a new snapshot."
        )
    if is_made(optimizer):
        check_kinds(optimizer, state)
    sizes, own = sizes_in(state), sizes_in(optimizer.state_dict())
    if sizes != own:
        raise ValueError(
            f"the snapshot is from an optimizer with other parameter groups: of {sizes} tensors then, of "
            f"{own} now. Restore it before groups are added, or take a new one afterwards."
        )


def title_of(optimizer: Any) -> str | None:
    """The class name of an optimizer, or of its members."""
    if optimizer is None:
        return None
    return " + ".join(f"{type(each).__module__}.{type(each).__qualname__}" for each in members_of(optimizer))


def sizes_in(state: Any) -> list[int]:
    """The number of parameters of each group in a state dict of torch's form; empty for other forms."""
    if has_torch_form(state):
        return [len(group["params"]) for group in state["param_groups"]]
    members = state.get("members", ()) if is_several(state) else ()
    return [size for each in members for size in sizes_in(each)]


def is_several(state: Any) -> bool:
    """Is this the state of `Optimizers`?"""
    return isinstance(state, dict) and {"members", "kinds"} <= set(state)
