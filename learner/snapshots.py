"""Copy everything that decides the future of a learner, and put it back."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from learner.tensors import TensorLoader, counted

CLOCK = ("epoch", "n_epochs", "batch_idx", "n_batches", "global_step", "n_samples", "training")


def take(learn: Any) -> dict[str, Any]:
    """Copy weights, buffers, optimizer, plug-in state, random state, loaders' state, clock and history."""
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in named_tensors(learn.model)},
        "optimizer": copy.deepcopy(learn.optimizer.state_dict()) if learn.optimizer is not None else None,
        "callbacks": {plugin.name: copy.deepcopy(plugin.state_dict()) for plugin in learn.callbacks},
        "loaders": {
            name: copy.deepcopy(loader.state_dict()) for name, loader in loaders_with_state(learn.data)
        },
        "random": random_states(),
        "clock": {name: getattr(learn, name) for name in CLOCK},
        "history": learn.history.state_dict(),
        "results": dict(learn.results),
    }


def put_back(learn: Any, snapshot: dict[str, Any]) -> None:
    """Put a snapshot back, after a check that it fits; the snapshot stays usable."""
    check_fits(learn, snapshot)
    with torch.no_grad():
        for name, tensor in named_tensors(learn.model):
            tensor.copy_(snapshot["tensors"][name])
    if learn.optimizer is not None and snapshot["optimizer"] is not None:
        learn.optimizer.load_state_dict(copy.deepcopy(snapshot["optimizer"]))
    for plugin in learn.callbacks:
        if plugin.name in snapshot["callbacks"]:
            plugin.load_state_dict(copy.deepcopy(snapshot["callbacks"][plugin.name]))
    for name, loader in loaders_with_state(learn.data):
        if name in snapshot["loaders"]:
            loader.load_state_dict(copy.deepcopy(snapshot["loaders"][name]))
    for name, value in snapshot["clock"].items():
        setattr(learn, name, value)
    learn.history.load_state_dict(snapshot["history"])
    learn.results = dict(snapshot["results"])
    set_random_states(snapshot["random"])


@contextmanager
def sandbox(learn: Any) -> Iterator[None]:
    """Put back, at the end, all that a snapshot holds, gradients, modes, plug-ins and how the fit ended."""
    snapshot = take(learn)
    gradients = [(parameter, parameter.grad) for parameter in learn.model.parameters()]
    frozen = [(parameter, parameter.requires_grad) for parameter in learn.model.parameters()]
    modes = [(module, module.training) for module in learn.model.modules()]
    ending, plugins = (learn.stop_reason, learn.error), tuple(learn.callbacks)
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        learn.remove_callbacks(
            *(plugin for plugin in learn.callbacks if not any(plugin is kept for kept in plugins))
        )
        put_back(learn, snapshot)
        learn.stop_reason, learn.error = ending
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for parameter, trainable in frozen:
            parameter.requires_grad_(trainable)
        for module, mode in modes:
            module.training = mode


def check_fits(learn: Any, snapshot: dict[str, Any]) -> None:
    """Refuse a snapshot of another model, before anything is changed."""
    if not isinstance(snapshot, dict) or "tensors" not in snapshot:
        raise ValueError(f"restore was given {type(snapshot).__name__}: pass what learn.snapshot() gave.")
    now = {name: tuple(tensor.shape) for name, tensor in named_tensors(learn.model)}
    then = {name: tuple(tensor.shape) for name, tensor in snapshot["tensors"].items()}
    if now != then:
        names = [name for name in now | then if now.get(name) != then.get(name)]
        raise ValueError(
            f"the snapshot is of another model: {counted(len(names), 'tensor differs', 'tensors differ')}, "
            f"as {names[0]!r} (shape {then.get(names[0])} then, {now.get(names[0])} now)."
        )


def named_tensors(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and all buffers, those outside of the state dict too."""
    return [*model.named_parameters(), *model.named_buffers()]


def loaders_with_state(data: Any) -> list[tuple[str, Any]]:
    """The loaders that can tell where they are and go there."""
    both = [("train", data.train), ("valid", data.valid)]
    return [
        (name, loader)
        for name, loader in both
        if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    ]


@contextmanager
def undrawn(loader: Any = None) -> Iterator[None]:
    """Put back, at the end, what training draws from: the random generators, and the loader's next order."""
    states = random_states()
    order = loader.state_dict() if isinstance(loader, TensorLoader) else None
    try:
        yield
    finally:
        set_random_states(states)
        if order is not None:
            loader.load_state_dict(order)


def random_states() -> dict[str, Any]:
    """The state of the generators that training draws from: Python's, NumPy's, torch's on each device."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        states["numpy"] = sys.modules["numpy"].random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` gave."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"])
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
