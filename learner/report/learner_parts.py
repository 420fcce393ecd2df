"""The parts of a learner in words, as a recipe would name them."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from callbacks.core.contract import Callback, LearnerProtocol
from callbacks.core.modules import plain_name
from callbacks.model.held import holder_of
from callbacks.optim.optimizers import title_of
from callbacks.save.checkpoint_folder import folders_of
from learner.data.loaders import n_batches_of
from learner.data.tensors import counted
from learner.engine.composition import DEFAULT_CALLBACKS
from learner.state.protocol import FullLearner

WIDTH = 100  # characters of an argument


def composition(learn: FullLearner) -> dict[str, str]:
    """The parts by dotted path, such as `callbacks.EMA.decay`, each as text; without what is a default."""
    loss = learn.loss_func
    n_parameters = sum(each.numel() for each in learn.model.parameters() if not is_lazy(each))
    words = {
        "data": data_in_words(learn.data),
        "model": type(learn.model).__name__,
        "model.parameters": f"{n_parameters:,}",
        "loss": "the model's own" if loss is None else plain_name(loss),
        "optimizer": title_of(learn.optimizer),
        **optimizer_settings(learn.optimizer),
    }
    if learn.metrics:
        words["metrics"] = ", ".join(map(plain_name, learn.metrics))
    for callback in learn.callbacks:
        kind = type(callback)
        path = f"callbacks.{kind.__name__ if callback.name == kind.name else callback.name}"
        found = {f"{path}.{name}": value for name, value in settings_of(callback)}
        if found or kind not in DEFAULT_CALLBACKS:
            words |= found or {path: "with its defaults"}
    return words


def data_in_words(data: Any) -> str:
    """How many batches there are, and of what."""
    return ", ".join(
        f"{name}: {counted(n, 'batch', 'batches') if n else 'an unknown number of batches'}"
        for name, loader in (("train", data.train), ("valid", data.valid))
        if loader is not None
        for n in (n_batches_of(loader),)
    )


def optimizer_settings(optimizer: Any) -> dict[str, str]:
    """Learning rates, and other settings of one optimizer that differ from the defaults."""
    groups = [] if optimizer is None else optimizer.param_groups
    rates = dict.fromkeys(f"{group['lr']:g}" for group in groups if isinstance(group.get("lr"), (int, float)))
    found = {"optimizer.lr": ", ".join(rates)} if rates else {}
    given = getattr(optimizer, "defaults", None)
    if isinstance(given, Mapping):
        found |= {
            f"optimizer.{name}": value for name, value in changed(type(optimizer), given) if name != "lr"
        }
    return found


def settings_of(callback: Callback) -> Iterator[tuple[str, str]]:
    """The arguments of a callback that differ from their defaults, if its attributes hold them."""
    elsewhere = ("name", "metrics", "device", "folder")  # no differences, or shown in another place
    names = [each for each in inspect.signature(type(callback)).parameters if each not in elsewhere]
    found = {}
    for name in names:
        holder = holder_of(name, callback)
        if holder is not None:
            found[name] = getattr(holder, name)
    if "best" in names and callback.monitors:  # of a Checkpoint
        found["best"] = callback.monitors[0]
    return changed(type(callback), found)


def changed(kind: type, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The values that differ from the defaults of a class, in the order of its arguments."""
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in values and in_words(values[name]) != in_words(parameter.default):
            yield name, in_words(values[name])


def in_words(value: Any) -> str:
    """A setting as short text."""
    if isinstance(value, partial):
        arguments = ", ".join(f"{key}={in_words(each)}" for key, each in value.keywords.items())
        return f"{plain_name(value.func)}({arguments})"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {in_words(each)}" for key, each in value.items())
    if callable(value) and hasattr(value, "__name__"):
        return plain_name(value)
    if isinstance(value, (torch.nn.Module, torch.Tensor)):
        return type(value).__name__
    return textwrap.shorten(str(value), WIDTH, placeholder=" ...")


def monitored_by(learn: LearnerProtocol) -> str | None:
    """The result that decides which epoch is best: of a `Checkpoint`, of `EarlyStopping`, of another one."""
    found = [each for each in learn.callbacks if each.monitors]
    found.sort(key=lambda each: (not each.saves_checkpoints, not each.restores_weights))
    return found[0].monitors[0] if found else None


def checkpoint_folder(learn: FullLearner) -> str | None:
    """Where a callback saves checkpoints."""
    return next(map(str, folders_of(learn)), None)
