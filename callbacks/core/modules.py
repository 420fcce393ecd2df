"""The modules of a learner other than its model: the loss, and those that are declared in `state`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import MethodType
from typing import Any

from torch import Tensor, nn

from callbacks.core.learner_protocol import LearnerProtocol
from callbacks.model.declared import objects_of
from callbacks.model.named import named_tensors
from callbacks.model.places import Places

LOSS = "loss_func"  # the name of the loss among the modules, and what its parameters' names begin with


def loss_module(loss_func: Any) -> nn.Module | None:
    """The module that is the loss, even inside a `partial` or behind one of its methods; None for a function.

    A module that a function reaches by a closure or a global is not looked for: it may be another network
    with its own optimizer. To keep such a module, declare it in `state`.
    """
    while not isinstance(loss_func, nn.Module):
        if isinstance(loss_func, partial):
            loss_func = loss_func.func
        elif isinstance(loss_func, MethodType):
            loss_func = loss_func.__self__
        else:
            return None
    return loss_func


def base_of(function: Any) -> Any:
    """The function within partials."""
    while isinstance(function, partial):
        function = function.func
    return function


def plain_name(function: Any) -> str:
    """The name of a function or of a module's class, also within a `partial`."""
    base = base_of(function)
    return str(getattr(base, "__name__", type(base).__name__))


def modules_beside(learn: LearnerProtocol) -> dict[str, nn.Module]:
    """The loss and the declared modules by their place, without those that are parts of the model."""
    found: dict[str, nn.Module] = {}
    module = loss_module(learn.loss_func)
    if module is not None:
        found[LOSS] = module
    for place, each in declared(learn):
        if isinstance(each, nn.Module):
            found[place] = each
    if not found:
        return found
    parts = set(map(id, learn.model.modules()))
    return {place: each for place, each in found.items() if id(each) not in parts}


def declared(learn: LearnerProtocol) -> Iterator[tuple[str, Any]]:
    """The objects with their own state that callbacks and a subclass of the learner declare in `state`."""
    for name, each in objects_of(learn, learn.state).items():
        yield f"learner.{name}", each
    for callback in learn.callbacks:
        if not callback.state:  # most have none, and each training pass asks
            continue
        for name, each in callback.objects().items():
            yield f"callbacks.{callback.name}.{name}", each


def loss_tensors(learn: LearnerProtocol) -> dict[str, Tensor]:
    """Parameters and buffers of the loss by name, `loss_func` first; without those that the model holds."""
    module = loss_module(learn.loss_func)
    found = {} if module is None else named_tensors(module)
    if not found:
        return found
    taken = set(map(id, named_tensors(learn.model).values()))
    return {f"{LOSS}.{name}": each for name, each in found.items() if id(each) not in taken}


def loss_parameters(learn: LearnerProtocol) -> dict[str, nn.Parameter]:
    """The parameters among `loss_tensors`."""
    return {name: each for name, each in loss_tensors(learn).items() if isinstance(each, nn.Parameter)}


def trained_parameters(learn: LearnerProtocol, of_model: list[Any] | None = None) -> list[Any]:
    """The parameters of the model, listed already or not, and of the loss that the optimizer holds."""
    of_model = held_in_model(learn) if of_model is None else of_model
    own = loss_parameters(learn).values()
    if not own:
        return of_model
    held = {id(each) for group in learn.optimizer.param_groups for each in group["params"]}
    return [*of_model, *(each for each in own if id(each) in held)]


def held_in_model(learn: LearnerProtocol) -> list[Any]:
    """The model's parameters that the optimizer holds: nobody drops the gradients of the others.

    All of them if it holds none, as one that trains copies in another precision.
    """
    of_model = list(learn.model.parameters())
    held = {id(each) for group in learn.optimizer.param_groups for each in group["params"]}
    return [each for each in of_model if id(each) in held] or of_model


class TrainedParameters:
    """`trained_parameters` for each step; they are listed again only after one was replaced or added."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Hold nothing of the learner."""
        self._places: Places | None = None
        self._of_model: list[Any] = []
        self._holder: tuple[Any, int] = (None, 0)  # the optimizer, and how many parameters it holds

    def gradients(self, learn: LearnerProtocol) -> list[Tensor]:
        """The gradients of all that have one."""
        return [each.grad for each in self.of(learn) if each.grad is not None]

    def of(self, learn: LearnerProtocol) -> list[Any]:
        """The parameters, in the order of the model."""
        holder = learn.optimizer, sum([len(group["params"]) for group in learn.optimizer.param_groups])
        if self._places is None or holder != self._holder or not self._places.are_of(learn.model):
            self._places, self._holder = Places(learn.model), holder
            self._of_model = held_in_model(learn)
        return trained_parameters(learn, self._of_model)
