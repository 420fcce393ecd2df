"""The lines of a script for the model, the loss and the optimizer of a learner."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.core.modules import base_of, loss_parameters
from callbacks.optim.optimizers import Optimizers, has_modes
from learner.engine.groups import without_decay
from learner.scripts.expressions import Part, literal
from learner.scripts.script import Script


def model_form(part: Part, fresh: nn.Module, script: Script) -> None:
    """The model: how it is made, where it is, and what of it does not train; `fresh` is a new one."""
    model = script.learn.model
    script.setup.append(f"model = {script.expressions.part(part, 'model')}")
    new = {name for name, each in fresh.named_parameters() if each.requires_grad}
    frozen = {name for name, each in model.named_parameters() if not each.requires_grad and name in new}
    for path in covered(model, frozen):
        script.setup.append(f"model.{indexed(path)}.requires_grad_(False)")
    if "DEVICE" in script.constants:
        script.setup.append("model.to(DEVICE)")
    kept = [name for name, each in fresh.named_modules() if not each.training and name]
    if fresh.training and kept:
        script.needs.add("modes")
        script.setup.append(
            "kept_in_evaluation_mode = [each for each in model.modules() if not each.training]"
        )
    if any(map(is_lazy, fresh.parameters())):
        script.problem("model: it has lazy layers; give their sizes, as nn.Linear(10, 5)")


def loss_form(script: Script) -> None:
    """The loss: a call of a function, or of a module that is made first."""
    loss, targets = script.learn.loss_func, script.batch.targets
    if loss is None:
        script.loss = "preds.loss"
        return
    if loss_parameters(script.learn):
        script.problem("loss: it has its own parameters; make it a part of the model")
    if isinstance(loss, nn.Module):
        script.setup.append(f"loss_func = {script.expressions.value(loss, 'loss')}")
        if "DEVICE" in script.constants and any(True for _ in loss.buffers()):
            script.setup.append("loss_func.to(DEVICE)")
        script.loss = f"loss_func(preds, {targets})"
    else:
        script.loss = script.expressions.call(loss, "loss", "preds", targets)


def optimizer_form(script: Script) -> None:
    """The optimizer, with its parameter groups."""
    optimizer = script.learn.optimizer
    if isinstance(optimizer, Optimizers):
        script.problem("optimizer: a script has no form for several optimizers")
        return
    if optimizer is None:
        script.problem("optimizer: the learner has none; pass Learner(..., optimizer=...)")
        return
    parameters = parameters_form(script)
    given = script.learn.optimizer_given
    function = base_of(given)
    if type(optimizer) in vars(torch.optim).values():
        name = script.expressions.name(type(optimizer), "optimizer")
        arguments = settings_of(optimizer, script)
    elif callable(function) and getattr(function, "__name__", "<lambda>") != "<lambda>":
        keywords = given.keywords if isinstance(given, partial) else {}
        name = script.expressions.name(function, "optimizer")
        arguments = [f"{key}={script.expressions.value(each, 'optimizer')}" for key, each in keywords.items()]
    else:
        name, arguments = script.expressions.name(function, "optimizer"), []
    script.setup.append(f"optimizer = {name}({', '.join([parameters, *arguments])})")
    if has_modes(optimizer):
        script.epoch_start.append("optimizer.train()")
        script.after_train.append("optimizer.eval()")


def settings_of(optimizer: Any, script: Script) -> list[str]:
    """The settings of an optimizer that are not torch's defaults; those of all groups come first."""
    usual = type(optimizer)([torch.zeros(1, requires_grad=True)], lr=1e-3).defaults
    settings = common_settings(optimizer)
    return [
        f"{key}={script.expressions.value(value, f'optimizer: {key}')}"
        for key, value in settings.items()
        if key == "lr" or not same(usual.get(key), value)
    ]


def same(one: Any, other: Any) -> bool:
    """Are two settings the same?"""
    return one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other)


def common_settings(optimizer: Any) -> dict[str, Any]:
    """The settings that all groups have, and the defaults for the other ones."""
    groups, defaults = optimizer.param_groups, optimizer.defaults
    return {
        key: groups[0][key] if all(same(each[key], groups[0][key]) for each in groups) else default
        for key, default in defaults.items()
        if key in groups[0]
    }


def parameters_form(script: Script) -> str:
    """An expression for the parameters, or for the parameter groups."""
    model, optimizer = script.learn.model, script.learn.optimizer
    names = {id(each): name for name, each in model.named_parameters()}
    groups = [[names.get(id(each), "") for each in group["params"]] for group in optimizer.param_groups]
    if any("" in group for group in groups):
        script.problem("optimizer: it has parameters that are not in the model")
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    if len(groups) == 1 and groups[0] == list(names.values()):
        return "model.parameters()"
    if len(groups) == 1 and groups[0] == trained:
        return "[each for each in model.parameters() if each.requires_grad]"
    by_ndim = no_decay_form(script, groups)
    if by_ndim is not None:
        return by_ndim
    shared = common_settings(optimizer)
    written = []
    for names_of_group, group in zip(groups, optimizer.param_groups, strict=True):
        own = {key: group[key] for key, value in shared.items() if not same(group[key], value)}
        settings = [
            f"{literal(key)}: {script.expressions.value(each, 'optimizer')}" for key, each in own.items()
        ]
        parts = [f'"params": {listed(model, names_of_group)}', *settings]
        written.append("{" + ", ".join(parts) + "}")
    return f"[{', '.join(written)}]"


def no_decay_form(script: Script, groups: list[list[str]]) -> str | None:
    """Two groups, without weight decay for biases and norms, if these are the tensors of one dimension."""
    model = script.learn.model
    if script.learn.splitter is not None or script.learn.decay_norms or len(groups) != 2:
        return None
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    spared = without_decay(model)
    if any((each.ndim < 2) is not (id(each) in spared) for each in trained.values()):
        return None
    script.setup.append("trained = [each for each in model.parameters() if each.requires_grad]")
    script.setup.append("decayed = [each for each in trained if each.ndim >= 2]")
    script.setup.append("others = [each for each in trained if each.ndim < 2]  # biases and norms")
    return '[{"params": decayed}, {"params": others, "weight_decay": 0.0}]'


def listed(model: nn.Module, names: list[str]) -> str:
    """A list of parameters by name, with a whole module where all of its parameters follow each other."""
    paths = covered(model, set(names))
    modules = dict(model.named_modules())
    called = [f"model.{indexed(each)}" for each in paths]
    parts = [
        f"*{call}.parameters()" if each in modules else call for each, call in zip(paths, called, strict=True)
    ]
    order = [name for each in paths for name in names_in(each, modules)]
    if order != names:
        parts = [f"model.get_parameter({literal(name)})" for name in names]
    if len(parts) == 1 and parts[0].startswith("*"):
        return parts[0][1:]
    return f"[{', '.join(parts)}]"


def covered(model: nn.Module, names: set[str], prefix: str = "") -> list[str]:
    """The largest modules, and the single parameters, that make up a set of parameters."""
    found = []
    for name, child in model.named_children():
        own = {f"{prefix}{name}.{each}" for each, _ in child.named_parameters()}
        if own and own <= names:
            found.append(f"{prefix}{name}")
        elif own & names:
            found += covered(child, names, f"{prefix}{name}.")
    own = [f"{prefix}{name}" for name, _ in model.named_parameters(recurse=False)]
    return [*found, *(each for each in own if each in names)]


def indexed(path: str) -> str:
    """`layers.0.weight` to `layers[0].weight`."""
    first, *rest = path.split(".")
    return first + "".join(f"[{each}]" if each.isdigit() else f".{each}" for each in rest)


def names_in(path: str, modules: dict[str, nn.Module]) -> list[str]:
    """The names of the parameters of a module, or of the only one."""
    if path not in modules:
        return [path]
    return [f"{path}.{name}" for name, _ in modules[path].named_parameters()]
