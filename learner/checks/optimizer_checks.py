"""Errors in the optimizers of a learner and its callbacks, reported before the first weight changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.core.contract import Callback
from callbacks.core.modules import declared, modules_beside
from callbacks.model.declared import is_kept, items_of
from callbacks.optim.optimizers import members_of, needs_closure, title_of
from callbacks.optim.parameter_rules import parameters_of
from callbacks.optim.saved_state import wrapped_in
from callbacks.step.closures import SAM
from learner.checks.reached import variables_of
from learner.data.tensors import counted
from learner.messages.arguments import is_optimizer
from learner.messages.problems import LearnerWarning, listed
from learner.state.attributes import FitState, names_of
from learner.state.protocol import FullLearner

OF_THE_LEARNER = {*names_of(FitState), "optimizer_given"}
N_LEVELS = 3  # the function that `on` makes, the user's, and one that it calls


def closure_problems(learn: FullLearner, is_as_loop: bool) -> Iterator[Exception]:
    """Report that the optimizer's step needs a closure and nothing passes one."""
    owner = learn.callbacks.overrides.get("step")
    passes_none = owner is not None and (owner.matches_loop or isinstance(owner, SAM))
    instead = f", instead of {type(owner).__name__}" if passes_none else ""
    if (instead or is_as_loop) and needs_closure(learn.optimizer):
        yield TypeError(
            f"the step of {title_of(learn.optimizer)} needs a closure that computes the loss again, but "
            f"nothing passes one. Add ClosureStep: Learner(..., callbacks=[ClosureStep()]){instead}."
        )


def owner_problems(
    trainable: dict[str, nn.Parameter], held: list[Tensor], trained: list[Tensor]
) -> Iterator[Exception]:
    """Report that optimizers hold none or only some of the parameters of model and loss."""
    theirs = set(map(id, trained))
    missing = [name for name, parameter in trainable.items() if id(parameter) not in theirs]
    n_held = len(trainable) - len(missing)
    if not n_held:
        yield ValueError(
            f"0 of {len(trainable)} trainable tensors are in the optimizer, which contains {len(held)} "
            "others: it was made for another model, or before layers were replaced. Pass a factory, as "
            "in partial(torch.optim.SGD, lr=0.1), or make the optimizer from this model's parameters()."
        )
    elif missing:
        yield LearnerWarning(
            f"{n_held} of {len(trainable)} trainable tensors are in the optimizer; it does not train "
            f"{listed(missing)}. Pass them to the optimizer, or freeze them with requires_grad_(False)."
        )


def unsaved_problems(learn: FullLearner) -> Iterator[Exception]:
    """Report optimizers that callbacks hold or use, and tensors that these train, if they are not saved."""
    kept = dict(declared(learn))
    saved = set(map(id, [learn.optimizer, *members_of(learn.optimizer), *optimizers_in(kept.values())]))
    saved |= {id(inner) for *_, inner in wrapped_in(learn.optimizer)}
    held_elsewhere = {id(each) for holder in learn.callbacks for each in optimizers_in(vars(holder).values())}
    for owner in (learn, *learn.callbacks):
        held = [
            name
            for name, value in own_attributes(owner).items()
            if any(id(each) not in saved for each in optimizers_in([value]))
        ]
        if held and not saves_itself(owner):
            title, state = type(owner).__name__, state_for(owner, learn)
            yield LearnerWarning(
                f"{title}.{held[0]} is an optimizer whose state is not saved in checkpoints, so a resumed "
                f"run gives different results: write state = {state} in the class {title}."
            )
    for callback in learn.callbacks:
        for each in optimizers_in(used_by(callback)):
            if id(each) not in saved | held_elsewhere:
                yield LearnerWarning(
                    f"the callback {callback.name!r} uses {title_of(each)}, an optimizer whose state is "
                    "not saved in checkpoints, so a resumed run gives different results: make it an "
                    "attribute of a Callback class, and list it in the `state` of the class."
                )
    yield from unsaved_tensors(learn, kept)


def own_attributes(owner: Callback | FullLearner) -> dict[str, Any]:
    """The attributes of a callback, or those that a subclass has added to the learner."""
    if isinstance(owner, Callback):
        return vars(owner)
    return {name: value for name, value in vars(owner).items() if name not in OF_THE_LEARNER}


def saves_itself(owner: Callback | FullLearner) -> bool:
    """Does it define its own `state_dict`, which saves something?"""
    if not isinstance(owner, Callback) or type(owner).state_dict is Callback.state_dict:
        return False
    try:
        return bool(owner.state_dict())
    except Exception as error:
        error.add_note(f"in {type(owner).__name__}.state_dict, of the callback {owner.name!r}")
        raise


def state_for(owner: Callback | FullLearner, learn: FullLearner) -> tuple[str, ...]:
    """The names to declare: the present ones, and the modules, optimizers and parameters that it holds."""
    elsewhere = {id(each) for each in (*learn.model.modules(), *learn.model.parameters(), learn.optimizer)}
    found = {
        name: [value, *(each for _, each in items_of(value))]
        for name, value in own_attributes(owner).items()
        if id(value) not in elsewhere
    }
    new = (name for name in found if name not in owner.state and any(map(is_kept, found[name])))
    return (*owner.state, *new)


def unsaved_tensors(learn: FullLearner, kept: dict[str, Any]) -> Iterator[Exception]:
    """Report tensors that a declared optimizer trains, and that no model, module or `state` holds."""
    modules = (learn.model, *modules_beside(learn).values())
    saved = {id(each) for module in modules for each in module.parameters()} | set(map(id, kept.values()))
    own = {each.name for each in learn.callbacks if saves_itself(each)}
    for place, optimizer in kept.items():
        tensors = [each for found in optimizers_in([optimizer]) for each in parameters_of(found)]
        n_lost = sum(id(each) not in saved for each in tensors)
        if n_lost and not place.startswith(tuple(f"callbacks.{name}." for name in own)):
            words = counted(n_lost, "tensor that is", "tensors that are")
            yield LearnerWarning(
                f"learn.{place.removeprefix('learner.')} trains {words} not saved in checkpoints, so a "
                "resumed run gives different results: list their module, or the parameters, in `state` too."
            )


def used_by(callback: Callback) -> list[Any]:
    """The variables that a user's callback uses in its functions, or in functions that these call."""
    kind = type(callback)
    found = [] if str(kind.__module__).startswith("callbacks.") else list(vars(kind).values())
    seen: dict[int, Any] = {}
    for _ in range(N_LEVELS):
        functions = [each for each in found if isinstance(each, FunctionType) and id(each) not in seen]
        seen |= {id(each): each for each in found}
        found = [each for function in functions for each in variables_of(function)]
    return list((seen | {id(each): each for each in found}).values())


def trained_by(learn: FullLearner) -> list[Tensor]:
    """The parameters in the learner's optimizer, and in those that callbacks or a subclass hold."""
    own = {name: value for name, value in vars(learn).items() if name != "optimizer_given"}
    holders = [own, *(vars(each) for each in learn.callbacks), dict(declared(learn))]
    values = [*(each.values() for each in holders), *map(used_by, learn.callbacks)]
    optimizers = {id(each): each for some in values for each in optimizers_in(some)}
    return [parameter for each in optimizers.values() for parameter in parameters_of(each)]


def optimizers_in(values: Iterable[Any]) -> Iterator[Any]:
    """The optimizers among values, and in lists, tuples and dicts of them."""
    for value in values:
        if type(value) in (list, tuple, dict):
            yield from filter(is_optimizer, value.values() if isinstance(value, dict) else value)
        elif is_optimizer(value):
            yield value


def all_zero(optimizer: torch.optim.Optimizer) -> bool:
    """Are all learning rates 0?"""
    rates: Iterable[Any] = (group.get("lr", 1.0) for group in optimizer.param_groups)
    return all(isinstance(rate, (int, float, Tensor)) and not rate for rate in rates)
