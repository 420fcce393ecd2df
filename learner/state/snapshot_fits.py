"""Check that a snapshot belongs to a learner, before anything is changed."""

from __future__ import annotations

from typing import Any

import torch

from callbacks.core.modules import LOSS
from callbacks.model.lazy import shape_problems
from callbacks.model.named import named_tensors
from callbacks.optim.optimizers import check_kinds, is_made, members_of
from learner.data.tensors import counted
from learner.state.identity import is_same
from learner.state.loss_state import check_loss
from learner.state.protocol import FullLearner


def check_fits(learn: FullLearner, snapshot: dict[str, Any]) -> None:
    """Refuse a snapshot of another model, before anything is changed."""
    if not isinstance(snapshot, dict) or "model" not in snapshot:
        raise ValueError(f"restore got {type(snapshot).__name__}: pass what learn.snapshot() returned.")
    then = {name: tuple(tensor.shape) for name, tensor in snapshot["model"].items()}
    faults = shape_problems(learn.model, then, snapshot.get("empty", {}))
    if faults and is_same(learn.model, snapshot.get("objects", {}).get("model")):
        faults = can_be_had_again(learn.model, faults, snapshot)
    if faults:
        name = next(iter(faults))
        then_shape, now_shape = faults[name]
        raise ValueError(
            f"the snapshot is of another model: {counted(len(faults), 'tensor differs', 'tensors differ')}, "
            f"as {name!r} (shape {then_shape} then, {now_shape} now)."
        )
    check_loss(learn, snapshot.get(LOSS))
    check_optimizer(learn.optimizer, snapshot)


def can_be_had_again(
    model: torch.nn.Module, faults: dict[str, tuple[Any, Any]], snapshot: dict[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """The faults, without those that a snapshot of this very model knows to undo.

    Those are lazy modules that had no values, and buffers that the forward pass replaced by others.
    """
    waiting = {id(tensor) for each in snapshot["lazy"] for tensor, _, _ in each.tensors}
    waiting |= {id(each) for each in model.buffers()}
    named = named_tensors(model)
    return {
        name: each for name, each in faults.items() if name not in named or id(named[name]) not in waiting
    }


def check_optimizer(optimizer: Any, snapshot: dict[str, Any]) -> None:
    """Refuse the state of another kind of optimizer, or of other groups, before anything is changed."""
    state = snapshot["optimizer"]
    if optimizer is None or state is None:
        return
    kind, then = title_of(optimizer), snapshot.get("optimizer_kind")
    if then not in (None, kind):
        raise ValueError(
            f"the snapshot is of another optimizer: {then} then, {kind} now. Assign one of that "
            "kind first, learn.optimizer = ..., or take a new snapshot."
        )
    if is_made(optimizer):
        check_kinds(optimizer, state)
    sizes, own = sizes_in(state), sizes_in(optimizer.state_dict())
    if sizes != own:
        raise ValueError(
            f"the snapshot is of an optimizer with other parameter groups: of {sizes} tensors then, of {own} "
            "now. Restore it before groups are added, or take a new one after."
        )


def title_of(optimizer: Any) -> str | None:
    """The class name of an optimizer, or of its members."""
    if optimizer is None:
        return None
    return " + ".join(f"{type(each).__module__}.{type(each).__qualname__}" for each in members_of(optimizer))


def sizes_in(state: Any) -> list[int]:
    """How many parameters each group has in a state dict of torch's form, or of several; none in others."""
    if not is_torchs(state):
        return (
            [size for each in state.get("members", ()) for size in sizes_in(each)]
            if is_several(state)
            else []
        )
    return [len(group["params"]) for group in state["param_groups"]]


def is_torchs(state: Any) -> bool:
    """Has the state of an optimizer the form of `torch.optim.Optimizer.state_dict`?"""
    if not isinstance(state, dict) or not {"state", "param_groups"} <= set(state):
        return False
    return isinstance(state["state"], dict) and all("params" in group for group in state["param_groups"])


def is_several(state: Any) -> bool:
    """Is it the state of `Optimizers`?"""
    return isinstance(state, dict) and {"members", "kinds"} <= set(state)
