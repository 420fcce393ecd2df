"""Check the arguments of a learner: each error names the argument, its value, and what to pass."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from callbacks.optim.optimizers import Optimizers, title_of
from callbacks.optim.parameter_rules import EXAMPLE, missing_of


def check_model(model: Any) -> nn.Module:
    """Check that the model is a module and not a class, and return it."""
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, type):
        raise TypeError(f"model is the class {model.__name__}: pass an instance, {model.__name__}(...).")
    raise TypeError(
        f"model is {model!r} ({type(model).__name__}): pass an nn.Module, such as torch.nn.Linear(3, 1). The "
        "model is the first argument, before the data."
    )


def check_loss_func(loss_func: Any) -> Any:
    """Check that the loss is a function or None, and return it."""
    if isinstance(loss_func, type):
        raise TypeError(
            f"loss_func is the class {loss_func.__name__}: pass an instance, {loss_func.__name__}()."
        )
    if loss_func is not None and not callable(loss_func):
        raise TypeError(
            f"loss_func is {loss_func!r} ({type(loss_func).__name__}): pass a function of (preds, targets), "
            "such as torch.nn.functional.mse_loss."
        )
    return loss_func


def check_state(cls: Any, base: Any) -> None:
    """Check the attributes that a subclass of the learner declares in `state`, when it is defined."""
    state = cls.state
    if not isinstance(state, (tuple, list)) or not all(isinstance(name, str) for name in state):
        raise TypeError(
            f"{cls.__name__}.state = {state!r}: write a tuple of attributes' names, as state = ('critic',)."
        )
    declared = {name for each in base.__mro__ for name in vars(each).get("__annotations__", ())}
    kept = [name for name in state if hasattr(base, name) or name in declared or name in KEPT]
    if kept:
        raise TypeError(
            f"{cls.__name__}.state lists {kept[0]!r}, which belongs to every learner: list only the "
            f"attributes that {cls.__name__} adds."
        )


KEPT = ("callbacks", "_callbacks", "_optimizer_given")  # what a learner sets without an annotation


def as_optimizer(optimizer: Any, parameters: list[Any], named: dict[str, nn.Parameter]) -> Any:
    """Return the optimizer that was passed, or the one that the factory creates; None if there is neither.

    `parameters` are tensors or groups of them; `named` are all parameters, for the rules of `Optimizers`.
    """
    if optimizer is None:
        return None
    made = optimizer if is_optimizer(optimizer) else make_optimizer(optimizer, parameters, named)
    for problem in [] if made is None else rate_problems(made):
        raise problem
    return made


def check_groups_with(optimizer: Any, splitter: Any, decay_norms: bool) -> Any:
    """Return the optimizer, with several as one; it must be a factory if the learner creates the groups."""
    if isinstance(optimizer, (list, tuple)):
        optimizer = Optimizers(*optimizer)
    if is_optimizer(optimizer) and (splitter is not None or not decay_norms):
        word = "decay_norms=False" if splitter is None else "splitter"
        raise TypeError(
            f"{word}: the optimizer exists and has its groups already. Pass a factory, such as "
            f"partial(torch.optim.{title_of(optimizer).split()[0]}, lr=...), or create the groups yourself."
        )
    return optimizer


def make_optimizer(factory: Any, parameters: list[Any], named: dict[str, nn.Parameter]) -> Any:
    """Create an optimizer with a factory; None if there are no parameters."""
    if not callable(factory) or (
        not isinstance(factory, (type, Optimizers)) and hasattr(factory, "param_groups")
    ):
        raise TypeError(
            f"optimizer is {factory!r} ({type(factory).__name__}){lacking(factory)}: pass "
            "partial(torch.optim.SGD, lr=0.1), an optimizer, or a list of several."
        )
    if not parameters:  # all are frozen: an error before a fit, but prediction needs no optimizer
        return None
    try:
        made = factory if isinstance(factory, Optimizers) else factory(parameters)
        if isinstance(made, Optimizers) and not made.is_made:
            made = make_several(made, parameters, named)
    except Exception as error:
        add_notes(error, factory, parameters)
        for problem in rates_on_the_way(error):
            raise problem from error
        raise
    if not is_optimizer(made):
        raise TypeError(
            f"optimizer={factory!r} made {made!r} of the parameters, which is not an optimizer"
            f"{lacking(made)}."
        )
    return made


def add_notes(error: Exception, factory: Any, parameters: list[Any]) -> None:
    """Add to an error of a factory what it was called for, and how to fix it."""
    kind = "parameter groups" if type(parameters[0]) is dict else "trainable tensors"
    error.add_note(f"while optimizer={factory!r} made an optimizer of the model's {len(parameters)} {kind}")
    if "Muon only supports 2D" in str(error):
        error.add_note(f"Use another optimizer for the other parameters: optimizer={EXAMPLE}.")


def lacking(item: Any) -> str:
    """What an optimizer lacks, as the end of a sentence; empty if it does not resemble an optimizer."""
    is_close = hasattr(item, "param_groups") or hasattr(item, "step")
    return (
        f", as it has no {', no '.join(missing_of(item))}" if is_close and not isinstance(item, type) else ""
    )


def make_several(factory: Optimizers, parameters: list[Any], named: dict[str, nn.Parameter]) -> Optimizers:
    """Create `Optimizers`, whose rules receive the names of the parameters."""
    names = {id(each): name for name, each in named.items()}
    frozen = [(name, each) for name, each in named.items() if not each.requires_grad]
    return factory(with_names(parameters, names), frozen=frozen)


def with_names(parameters: list[Any], names: dict[int, str]) -> list[Any]:
    """Parameters, or groups of them, each parameter as a pair of its name and itself."""
    return [
        {**each, "params": with_names(each["params"], names)}
        if isinstance(each, dict)
        else (names.get(id(each), ""), each)
        for each in parameters
    ]


def rates_on_the_way(error: BaseException) -> Iterator[Exception]:
    """The error for a learning rate that an optimizer of torch refuses."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        given = frame.f_locals
        if "lr" in given and isinstance(given.get("self"), torch.optim.Optimizer):
            yield from rate_problem(given["lr"])
            return


def is_optimizer(item: Any) -> bool:
    """Something like a `torch.optim.Optimizer`: it has groups, steps, saves and loads its state."""
    return item.is_made if isinstance(item, Optimizers) else not missing_of(item)


def check_assigned(optimizer: Any) -> None:
    """Return the learner's optimizer, which may have been assigned by the user."""
    if optimizer is not None and not is_optimizer(optimizer):
        raise TypeError(
            f"learn.optimizer is {optimizer!r} ({type(optimizer).__name__}){lacking(optimizer)}: assign an "
            "optimizer, as torch.optim.SGD(learn.model.parameters(), lr=0.1), or several as one, "
            "Optimizers(a, b)."
        )


class Fitted(Protocol):
    """What a fit needs of a learner before it starts."""

    optimizer: Any
    fitting: bool


def check_fit(learn: Fitted, n_epochs: Any) -> None:
    """Check that a fit can start."""
    check_n_epochs(n_epochs)
    check_assigned(learn.optimizer)
    if learn.fitting:
        raise RuntimeError("this learner is in the middle of a fit: let it end, or make another learner.")


def check_n_epochs(n_epochs: Any) -> None:
    """Check that the number of epochs is a whole number of at least 0."""
    if type(n_epochs) is not int:
        raise TypeError(
            f"fit(n_epochs={n_epochs!r}): pass a whole number of epochs, as in fit(10), not a value of "
            f"type {type(n_epochs).__name__}."
        )
    if n_epochs < 0:
        raise ValueError(f"fit(n_epochs={n_epochs}): pass 0 or more epochs.")


def rate_problems(optimizer: torch.optim.Optimizer) -> Iterator[Exception]:
    """Errors for the learning rates; 0 is allowed, with a warning before the first step."""
    for number, group in enumerate(optimizer.param_groups):
        yield from rate_problem(group.get("lr", 1.0), f" in parameter group {number}" if number else "")


def rate_problem(rate: Any, place: str = "") -> Iterator[Exception]:
    """The error for a rate that is not a number, infinite or negative; a tensor of one float is allowed."""
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    is_number = is_number or (isinstance(rate, Tensor) and rate.numel() == 1 and rate.is_floating_point())
    message = f"lr must be a finite number > 0, got {rate!r} ({type(rate).__name__}){place}."
    if not is_number:
        yield TypeError(f"{message} Write it as a number, as in lr=1e-3.")
    elif not math.isfinite(rate) or rate < 0:
        yield ValueError(message)
