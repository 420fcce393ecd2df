"""Copy everything that decides the future of a learner, and put it back."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from callbacks.parts import draws
from callbacks.parts.named import named_tensors
from learner import positions
from learner.batching import TensorLoader
from learner.generators import kind_of
from learner.tensors import counted

CLOCK = ("epoch", "n_epochs", "batch_idx", "n_batches", "global_step", "n_samples", "training")
EXTRA = "_extra_state"  # how torch ends the key of what a module's get_extra_state gives


def take(learn: Any) -> dict[str, Any]:
    """A copy of `state_of`."""
    state = state_of(learn)
    model = {name: tensor.clone() for name, tensor in state.pop("model").items()}
    return {"model": model, **copy.deepcopy(state), "optimizer_kind": title_of(learn.optimizer)}


def state_of(learn: Any) -> dict[str, Any]:
    """Weights, buffers, optimizer, plug-in, random and loaders' state, clock and history: no copy."""
    return {
        "model": {name: tensor.detach() for name, tensor in named_tensors(learn.model).items()},
        "extra": extra_states(learn.model),
        "frozen": [name for name, each in learn.model.named_parameters() if not each.requires_grad],
        "optimizer": learn.optimizer.state_dict() if learn.optimizer is not None else None,
        "callbacks": {plugin.name: plugin.state_dict() for plugin in learn.callbacks},
        "loaders": {name: loader.state_dict() for name, loader in loaders_with_state(learn.data)},
        "random": draws.take(),
        "clock": {name: getattr(learn, name) for name in CLOCK},
        "history": learn.history.state_dict(),
        "results": dict(learn.results),
    }


def put_back(learn: Any, snapshot: dict[str, Any]) -> None:
    """Put a snapshot back, after a check that it fits; the snapshot stays usable."""
    check_fits(learn, snapshot)
    put_plugins(learn, snapshot["callbacks"])  # what users wrote comes first: it may refuse
    put_tensors(learn.model, snapshot)
    if learn.optimizer is not None and snapshot["optimizer"] is not None:
        put_optimizer(learn.optimizer, snapshot["optimizer"])
    for name, loader in loaders_with_state(learn.data):
        if name in snapshot["loaders"]:
            loader.load_state_dict(copy.deepcopy(snapshot["loaders"][name]))
    for name, value in snapshot["clock"].items():
        setattr(learn, name, value)
    learn.history.load_state_dict(snapshot["history"])
    learn.results = dict(snapshot["results"])
    draws.put(snapshot["random"])


def put_plugins(learn: Any, states: dict[str, Any]) -> None:
    """Give the plug-ins their states; where one refuses, all keep those that they had."""
    found = [plugin for plugin in learn.callbacks if plugin.name in states]
    kept = [copy.deepcopy(plugin.state_dict()) for plugin in found]
    for plugin in found:
        try:
            plugin.load_state_dict(copy.deepcopy(states[plugin.name]))
        except Exception as error:
            for each, state in zip(found, kept, strict=True):
                each.load_state_dict(state)
            error.add_note(f"in the plug-in {plugin.name!r}, which was given the state it had saved")
            raise


def put_tensors(model: torch.nn.Module, snapshot: dict[str, Any]) -> None:
    """Put weights and buffers back, what modules keep beside them, and what was frozen."""
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            tensor.copy_(snapshot["model"][name])
    for name, module in model.named_modules():
        key = f"{name}.{EXTRA}" if name else EXTRA
        if key in snapshot["extra"]:
            module.set_extra_state(copy.deepcopy(snapshot["extra"][key]))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in snapshot["frozen"])


def put_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state with the dtypes that it had, which torch casts to the parameters'."""
    optimizer.load_state_dict(copy.deepcopy(state))
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        kept, loaded = state["state"].get(number, {}), optimizer.state.get(parameter, {})
        for key, value in kept.items():
            if isinstance(value, Tensor) and value.dtype != loaded[key].dtype:
                loaded[key] = value.to(loaded[key].device, copy=True)


@contextmanager
def sandbox(learn: Any) -> Iterator[None]:
    """Put back, at the end, all that a snapshot holds, gradients, modes, plug-ins and how the fit ended."""
    snapshot = take(learn)
    gradients = [(parameter, parameter.grad) for parameter in learn.model.parameters()]
    modes = [(module, module.training) for module in learn.model.modules()]
    drawn = [(part, positions.generator_states(part)) for _, part in parts_with_generators(learn)]
    ending, plugins = (learn.stop_reason, learn.error, learn.n_fits), tuple(learn.callbacks)
    parts = {name: getattr(learn, name) for name in ("model", "data", "loss_func", "optimizer")}
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        learn.remove_callbacks(
            *(plugin for plugin in learn.callbacks if not any(plugin is kept for kept in plugins))
        )
        vars(learn).update(parts)  # of which the block may have put others in their place
        put_back(learn, snapshot)
        for part, states in drawn:
            positions.set_generator_states(part, states)
        learn.stop_reason, learn.error, learn.n_fits = ending
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def check_fits(learn: Any, snapshot: dict[str, Any]) -> None:
    """Refuse a snapshot of another model, before anything is changed."""
    if not isinstance(snapshot, dict) or "model" not in snapshot:
        raise ValueError(f"restore was given {type(snapshot).__name__}: pass what learn.snapshot() gave.")
    now = {name: tuple(tensor.shape) for name, tensor in named_tensors(learn.model).items()}
    then = {name: tuple(tensor.shape) for name, tensor in snapshot["model"].items()}
    if now != then:
        names = [name for name in now | then if now.get(name) != then.get(name)]
        raise ValueError(
            f"the snapshot is of another model: {counted(len(names), 'tensor differs', 'tensors differ')}, "
            f"as {names[0]!r} (shape {then.get(names[0])} then, {now.get(names[0])} now)."
        )
    check_optimizer(learn.optimizer, snapshot)


def check_optimizer(optimizer: Any, snapshot: dict[str, Any]) -> None:
    """Refuse the state of another kind of optimizer, or of other groups, before anything is changed."""
    state = snapshot["optimizer"]
    if optimizer is None or state is None:
        return
    kind, then = title_of(optimizer), snapshot.get("optimizer_kind")
    if then not in (None, kind):
        raise ValueError(
            f"the snapshot is of another optimizer: {then} then, {kind} now. Put one of that kind back "
            "first, learn.optimizer = ..., or take a new snapshot."
        )
    sizes = [len(group["params"]) for group in state["param_groups"]]
    own = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != own:
        raise ValueError(
            f"the snapshot is of an optimizer with other parameter groups: of {sizes} tensors then, of {own} "
            "now. Restore it before groups are added, or take a new one after."
        )


def title_of(optimizer: Any) -> str | None:
    """Which optimizer it is."""
    return None if optimizer is None else f"{type(optimizer).__module__}.{type(optimizer).__qualname__}"


def extra_states(model: torch.nn.Module) -> dict[str, Any]:
    """What modules keep beside tensors, by the keys that torch gives it."""
    empty = torch.nn.Module.get_extra_state
    return {
        f"{name}.{EXTRA}" if name else EXTRA: module.get_extra_state()
        for name, module in model.named_modules()
        if type(module).get_extra_state is not empty
    }


def loaders_with_state(data: Any) -> list[tuple[str, Any]]:
    """The loaders that can tell where they are and go there."""
    both = [("train", data.train), ("valid", data.valid)]
    return [
        (name, loader)
        for name, loader in both
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    ]


USUAL = ("builtins", "collections")  # where the kinds of a module's other attributes come from


def parts_with_generators(learn: Any) -> Iterator[tuple[str, Any]]:
    """What may hold random generators of its own."""
    yield "train", learn.data.train
    yield "valid", learn.data.valid
    for name, module in learn.model.named_modules():
        if any(kind_of(part) for part in vars(module).values() if type(part).__module__ not in USUAL):
            yield f"model.{name}", module


@contextmanager
def undrawn(loader: Any = None) -> Iterator[None]:
    """Put back, at the end, what training draws from: the random generators, and the loader's next order."""
    order = loader.state_dict() if isinstance(loader, TensorLoader) else None
    try:
        with draws.undrawn():
            yield
    finally:
        if order is not None:
            loader.load_state_dict(order)
