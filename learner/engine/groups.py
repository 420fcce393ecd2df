"""Layer groups: freezing, and learning rates per group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from callbacks.core.modules import loss_module, loss_parameters
from callbacks.optim.optimizers import Optimizers, members_of
from learner.data.tensors import counted
from learner.messages.arguments import as_optimizer
from learner.messages.problems import listed
from learner.state.protocol import FullLearner

Splitter = Callable[[nn.Module], Iterable[Any]]
Groups = list[list[nn.Parameter]]

LAYER_GROUP = "layer_group"  # the key of an optimizer's group with the number of its layer group
EARLIER = 10  # slice(hi) means hi for the last group, and hi / 10 for the earlier ones (as in fastai)
NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # batch and instance norm, of all dimensions
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)


def layer_groups(model: nn.Module, splitter: Splitter | None) -> Groups:
    """A model's parameters by group, from the input to the output.

    Args:
        model: the model.
        splitter: a function of the model that returns the groups, each a module, a parameter, or several of
            both. A parameter of two groups, such as a tied weight, belongs to the first. None: one group.

    Raises:
        TypeError: the splitter is not callable, or returns something else.
        ValueError: trainable parameters are in no group, or a group has no parameters.
    """
    if splitter is None:
        return [list(model.parameters())]
    if not callable(splitter):
        raise TypeError(f"splitter={splitter!r}: pass a function of the model, such as {EXAMPLE}.")
    names = {id(each): name for name, each in model.named_parameters()}
    taken: set[int] = set()
    groups: Groups = []
    for number, given in enumerate(splitter(model)):
        found = {id(each): each for each in parameters_in(given, number)}
        strangers = [each for key, each in found.items() if key not in names]
        if strangers:
            raise ValueError(
                f"splitter: group {number} has a parameter of shape {tuple(strangers[0].shape)} that is not "
                f"in the model. Return parts of the model that is passed, as in {EXAMPLE}."
            )
        groups.append([each for key, each in found.items() if key not in taken])
        taken |= set(found)
    trainable = {name: each for name, each in model.named_parameters() if each.requires_grad}
    check_groups(groups, [name for name, each in trainable.items() if id(each) not in taken])
    return groups


EXAMPLE = "lambda model: [model.body, model.head]"


def by_children(model: nn.Module) -> list[nn.Module]:
    """A splitter that makes each direct child of the model with parameters a layer group."""
    return [child for child in model.children() if any(True for _ in child.parameters())]


def body_and_head(model: nn.Module) -> list[list[nn.Module]]:
    """A splitter with two groups: the last direct child with parameters, and all children before it."""
    *body, head = by_children(model)
    return [body, [head]]


def parameters_in(given: Any, number: int) -> Iterator[nn.Parameter]:
    """The parameters of a module, of a parameter, or of several of both."""
    if isinstance(given, nn.Parameter):
        yield given
    elif isinstance(given, nn.Module):
        yield from given.parameters()
    elif isinstance(given, Iterable) and not isinstance(given, (str, dict, torch.Tensor)):
        for each in given:
            yield from parameters_in(each, number)
    else:
        raise TypeError(
            f"splitter: group {number} has {given!r} ({type(given).__name__}): return modules or parameters, "
            f"as in {EXAMPLE}."
        )


def check_groups(groups: Groups, forgotten: list[str]) -> None:
    """Refuse empty groups, and trainable parameters without a group, whose names are in `forgotten`."""
    if not groups:
        raise ValueError(f"splitter: it returned no group. Return at least one, as in {EXAMPLE}.")
    for number, group in enumerate(groups):
        if not group:
            raise ValueError(
                f"splitter: all parameters of group {number} are in earlier groups, or it has none. Remove "
                "the group, or put each layer into one group."
            )
    if forgotten:
        raise ValueError(
            f"splitter: its {counted(len(groups), 'group lacks', 'groups lack')} {listed(forgotten)}, "
            "which would not be trained. Add them to a group, or freeze them with requires_grad_(False)."
        )


def make_optimizer(learn: FullLearner) -> Any:
    """The optimizer of a learner; a factory is called with its parameters."""
    return as_optimizer(learn.optimizer_given, to_optimize(learn), named_parameters(learn))


def to_optimize(learn: FullLearner) -> list[Any]:
    """The tensors for an optimizer: the trainable ones, or all in groups if there is a splitter.

    They include the trainable tensors of a loss that is a module, in the last group.
    """
    if learn.splitter is not None:
        return settings_of(with_loss(layer_groups(learn.model, learn.splitter), learn), learn)
    groups = with_loss([[each for each in learn.model.parameters() if each.requires_grad]], learn)
    return groups[0] if learn.decay_norms else settings_of(groups, learn)


def with_loss(groups: Groups, learn: FullLearner) -> Groups:
    """The groups; the last one also has the trainable tensors of the loss."""
    *earlier, last = groups
    return [*earlier, [*last, *(each for each in loss_parameters(learn).values() if each.requires_grad)]]


def settings_of(groups: Groups, learn: FullLearner) -> list[dict[str, Any]]:
    """The groups as an optimizer takes them; tensors without weight decay are separate groups."""
    loss = loss_module(learn.loss_func)
    modules = [] if learn.decay_norms else [learn.model] if loss is None else [learn.model, loss]
    spared = set[int]().union(*map(without_decay, modules))
    made = []
    for number, group in enumerate(groups):
        decayed = [each for each in group if id(each) not in spared]
        others = [each for each in group if id(each) in spared]
        if decayed:
            made.append({"params": decayed, LAYER_GROUP: number})
        if others:
            made.append({"params": others, LAYER_GROUP: number, "weight_decay": 0.0})
    return made


def without_decay(model: nn.Module) -> set[int]:
    """The ids of all biases and of the parameters of norms, which weight decay does not help."""
    biases = {id(each) for name, each in model.named_parameters() if "bias" in name.rpartition(".")[2]}
    return biases | in_norms(model)


def in_norms(model: nn.Module) -> set[int]:
    """The ids of the parameters of norms."""
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    return {id(each) for module in norms for each in module.parameters()}


def group_of(settings: dict[str, Any], position: int) -> int:
    """The layer group of an optimizer's group; its position if it has no number."""
    return settings.get(LAYER_GROUP, position)


def n_groups_of(optimizer: Any) -> int:
    """The number of layer groups of an optimizer; the members of `Optimizers` share them."""
    members = members_of(optimizer)
    return 1 + max(group_of(each, n) for one in members for n, each in enumerate(one.param_groups))


def rates_of(optimizer: Any, rate: float | slice, n_groups: int) -> list[float]:
    """The learning rate of each group of an optimizer; `rate` is as in `spread`.

    In `Optimizers`, the member with the largest rate gets `rate`; the others get `rate` times their ratio to
    that member, as their rates are in different units.
    """
    members = members_of(optimizer)
    rates = spread(rate, max(n_groups, n_groups_of(optimizer)))
    own = [max(float(group.get("lr", 1.0)) for group in one.param_groups) for one in members]
    found = {
        id(group): rates[group_of(group, position)] * (size / max(own) if max(own) else 1.0)
        for one, size in zip(members, own, strict=True)
        for position, group in enumerate(one.param_groups)
    }
    return [found[id(group)] for group in optimizer.param_groups]


def spread(rate: float | slice, n_groups: int) -> list[float]:
    """The learning rate of each layer group.

    Args:
        rate: a number for all groups; or `slice(lo, hi)`, from `lo` for the first group to `hi` for the last
            in equal factors; or `slice(hi)`, `hi` for the last group and a tenth for the others.
        n_groups: the number of groups.

    Source: Howard and Ruder 2018, "Universal language model fine-tuning", section 3.2.
    """
    if not isinstance(rate, slice):
        return [checked_rate(rate)] * n_groups
    high = checked_rate(rate.stop)
    if rate.step is not None:
        raise ValueError(f"{rate!r}: pass slice(lo, hi), or slice(hi).")
    if rate.start is None:
        return [high / EARLIER] * (n_groups - 1) + [high]
    low = checked_rate(rate.start)
    if n_groups == 1:
        return [high]
    return [low * (high / low) ** (number / (n_groups - 1)) for number in range(n_groups)]


def checked_rate(rate: Any) -> float:
    """The rate as a float, if it is a positive number."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)):
        raise TypeError(
            f"lr={rate!r}: pass a number, as in 1e-3, or slice(1e-5, 1e-3) for rates per layer group."
        )
    if not 0 < rate < float("inf"):
        raise ValueError(f"lr={rate!r}: pass a finite number above 0.")
    return float(rate)


# Freezing


def freeze_to(learn: FullLearner, n: int, *, train_norms: bool = True) -> None:
    """Freeze the layer groups before group `n`, and train the others.

    Args:
        learn: the learner.
        n: the first group to train, from 0; -1 is the last.
        train_norms: train the weights and biases of all normalization layers, as fastai does. Their running
            statistics change too, unless `BatchNormFreeze` is used.

    Raises:
        TypeError, ValueError: there is no such group.
    """
    groups: Groups = learn.layer_groups
    if type(n) is not int:
        raise TypeError(f"freeze_to({n!r}): pass the number of the first layer group to train, such as -1.")
    if not -len(groups) <= n < len(groups):
        raise ValueError(
            f"freeze_to({n}): the model has {counted(len(groups), 'layer group', 'layer groups')}. Pass "
            f"{-len(groups)} to {len(groups) - 1}{'' if len(groups) > 1 else SPLIT_FIRST}."
        )
    first = n % len(groups)
    norms = in_norms(learn.model)
    for number, group in enumerate(groups):
        for parameter in group:
            trains = number >= first or (train_norms and id(parameter) in norms)
            parameter.requires_grad_(trains and parameter.is_floating_point())
            if not trains:
                parameter.grad = None  # an optimizer would still apply a gradient that is left
    add_unfrozen(learn)


def freeze(learn: FullLearner, *, train_norms: bool = True) -> None:
    """Freeze all layer groups except the last; `train_norms` is that of `freeze_to`.

    Raises:
        ValueError: there is only one group.
    """
    if len(learn.layer_groups) == 1:
        raise ValueError(
            "freeze(): there is only one layer group, so there is nothing to freeze. Pass a splitter, as in "
            f"Learner(..., splitter={EXAMPLE})."
        )
    freeze_to(learn, -1, train_norms=train_norms)


def unfreeze(learn: FullLearner) -> None:
    """Train all layer groups."""
    freeze_to(learn, 0)


SPLIT_FIRST = f", or pass Learner(splitter={EXAMPLE}) to have more"


def add_unfrozen(learn: FullLearner) -> None:
    """Add trainable parameters to the optimizer that were frozen when it was made."""
    if learn.optimizer is None:
        learn.optimizer = make_optimizer(learn)
        return
    held = {id(each) for group in learn.optimizer.param_groups for each in group["params"]}
    for settings in settings_of(with_loss(learn.layer_groups, learn), learn):
        new = [each for each in settings["params"] if each.requires_grad and id(each) not in held]
        if new:
            learn.optimizer.add_param_group({**settings, "params": named(new, learn)})


def named(parameters: list[nn.Parameter], learn: FullLearner) -> list[Any]:
    """The parameters as they are, or with their names for the rules of `Optimizers`."""
    if not isinstance(learn.optimizer, Optimizers):
        return parameters
    names = {id(each): name for name, each in named_parameters(learn).items()}
    return [(names.get(id(each), ""), each) for each in parameters]


def named_parameters(learn: FullLearner) -> dict[str, nn.Parameter]:
    """The parameters of model and loss by name."""
    return {**dict(learn.model.named_parameters()), **loss_parameters(learn)}
