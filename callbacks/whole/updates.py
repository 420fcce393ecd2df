"""The updates of torch's SGD, Adam and AdamW as functions without side effects, for a program to be made of.

Every number that a schedule may change is an input of the program, in one small tensor, so that a change of
it makes no new program. What it does not hold, as whether there is a momentum, is part of the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from callbacks.fast.lean_kernels import begun

Group = dict[str, Any]
Numbers = list[Any]  #: floats of the host, or scalar tensors of the program
Kept = list[Tensor]  #: what an optimizer keeps of a parameter


class Rule(Protocol):
    """How a kind of optimizer makes its update."""

    def names(self, group: Group) -> tuple[str, ...]:
        """What it keeps of each parameter, by its names in the optimizer's state, but for the count."""
        ...

    def structure(self, group: Group) -> tuple[Any, ...]:
        """The settings that a program is made for; another value of one needs another program."""
        ...

    def count(self, state: dict[str, Any]) -> float:
        """How many updates a parameter has had, as far as that matters."""
        ...

    def numbers(self, group: Group, count: float) -> Numbers:
        """The numbers of the next update, after so many."""
        ...

    def update(
        self, structure: tuple[Any, ...], param: Tensor, grad: Tensor, kept: Kept, numbers: Numbers
    ) -> tuple[Tensor, Kept]:
        """The parameter and what is kept of it after the update; what is given stays as it is."""
        ...

    def begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        """Fill the empty state of a parameter as it is before the first update."""
        ...


class SGDRule:
    """`torch.optim.SGD`."""

    def names(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def structure(self, group: Group) -> tuple[Any, ...]:
        has_momentum = group["momentum"] != 0
        return group["maximize"], group["weight_decay"] != 0, has_momentum, has_momentum and group["nesterov"]

    def count(self, state: dict[str, Any]) -> float:
        return 0 if state.get("momentum_buffer") is None else 1

    def numbers(self, group: Group, count: float) -> Numbers:
        share = 1 - group["dampening"] if count else 1.0  # the first buffer is the gradient itself
        return [-group["lr"], group["weight_decay"], group["momentum"], share]

    def update(
        self, structure: tuple[Any, ...], param: Tensor, grad: Tensor, kept: Kept, numbers: Numbers
    ) -> tuple[Tensor, Kept]:
        maximize, has_decay, has_momentum, nesterov = structure
        rate, decay, momentum, share = numbers
        grad = -grad if maximize else grad
        grad = grad + decay * param if has_decay else grad
        if not has_momentum:
            return param + rate * grad, []
        buffer = momentum * kept[0] + share * grad
        return param + rate * (grad + momentum * buffer if nesterov else buffer), [buffer]

    def begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        if group["momentum"] != 0:
            state["momentum_buffer"] = torch.zeros_like(param, memory_format=torch.preserve_format)


class AdamRule:
    """`torch.optim.Adam` and `AdamW`."""

    def names(self, group: Group) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else []))

    def structure(self, group: Group) -> tuple[Any, ...]:
        decay = group["weight_decay"] != 0
        return group["maximize"], decay, decay and group["decoupled_weight_decay"], group["amsgrad"]

    def count(self, state: dict[str, Any]) -> float:
        return state["step"].item() if "step" in state else 0  # it is on the CPU: nothing is waited for

    def numbers(self, group: Group, count: float) -> Numbers:
        lr, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        size, root = lr / (1 - beta1 ** (count + 1)), (1 - beta2 ** (count + 1)) ** 0.5
        return [-size, decay, 1 - lr * decay, 1 - beta1, beta2, 1 - beta2, root, group["eps"]]

    def update(
        self, structure: tuple[Any, ...], param: Tensor, grad: Tensor, kept: Kept, numbers: Numbers
    ) -> tuple[Tensor, Kept]:
        maximize, has_decay, is_decoupled, amsgrad = structure
        size, decay, shrink, share1, beta2, share2, root, eps = numbers
        grad = -grad if maximize else grad
        if has_decay:
            param, grad = (param * shrink, grad) if is_decoupled else (param, grad + decay * param)
        mean = kept[0] + share1 * (grad - kept[0])
        square = beta2 * kept[1] + share2 * (grad * grad)
        largest = torch.maximum(kept[2], square) if amsgrad else square
        param = param + size * (mean / (largest.sqrt() / root + eps))
        return param, [mean, square, *([largest] if amsgrad else [])]

    def begin(self, state: dict[str, Any], param: Tensor, group: Group) -> None:
        begun(state, param, group)


RULES: dict[type, Rule] = {
    torch.optim.SGD: SGDRule(),
    torch.optim.Adam: AdamRule(),
    torch.optim.AdamW: AdamRule(),
}


class Run(NamedTuple):
    """Parameters of a group that have had as many updates, so that the numbers of the next are the same."""

    rule: Rule
    group: Group
    structure: tuple[Any, ...]
    names: tuple[str, ...]
    params: list[Tensor]

    @property
    def counts(self) -> bool:
        """Does the optimizer count the updates of each parameter?"""
        return isinstance(self.rule, AdamRule)


def runs_of(optimizer: Any) -> list[Run]:
    """All parameters that are trained, in the optimizer's order."""
    rule, found = RULES[type(optimizer)], []
    for group in optimizer.param_groups:
        trained = [each for each in group["params"] if each.requires_grad]
        for _, run in groupby(trained, lambda each: rule.count(optimizer.state.get(each, {}))):
            found.append(Run(rule, group, rule.structure(group), rule.names(group), list(run)))
    return found


def numbers_of(runs: Iterable[Run], state: Any) -> list[float]:
    """The numbers of all runs for the next update."""
    found: list[float] = []
    for run in runs:
        first = run.params[0]
        found += run.rule.numbers(run.group, run.rule.count(state.get(first, {})))
    return found


def kept_of(runs: Iterable[Run], state: Any) -> list[Tensor]:
    """What the optimizer keeps of all parameters; zeros where it has not begun."""
    found: list[Tensor] = []
    for run in runs:
        for param in run.params if run.names else ():
            own = state.get(param, {})
            for name in run.names:
                value = own.get(name)
                found.append(torch.zeros_like(param) if value is None else value)
    return found


def split(runs: Iterable[Run], kept: list[Any], numbers: Any) -> Iterator[tuple[Run, Tensor, Kept, Numbers]]:
    """For each parameter what is kept of it, and the numbers of its update."""
    at = number = 0
    for run in runs:
        n_numbers = len(run.rule.numbers(run.group, 1))
        own = [numbers[number + n] for n in range(n_numbers)]
        number += n_numbers
        for param in run.params:
            yield run, param, kept[at : at + len(run.names)], own
            at += len(run.names)
