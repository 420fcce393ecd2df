"""Find out whether a user's loss function compares each prediction with each target.

Predictions of shape (N, 1) minus targets of shape (N,) are N x N differences, and their mean is a loss that
falls but trains the wrong thing. A loss function may also handle the two shapes well (`preds.squeeze(-1)`),
or compare each with each on purpose (ranking). Three calls on random numbers tell these apart.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from callbacks.core import draws
from callbacks.core.modules import loss_module
from callbacks.measures.linearity import buffers_kept

Shape = tuple[int, ...]

# The most items of a probe: each with each stays small, and five items are enough to see a difference.
N_ITEMS = 5
MAX_ELEMENTS = 10**7


def compares_each_with_each(loss_func: Callable[..., Any], preds: Tensor, targets: Tensor) -> bool:
    """Does a loss function broadcast preds and targets of these shapes against each other by mistake?

    It does if one of its operations takes tensors of both shapes, and its value differs from the value for
    equal shapes; not if it raises on all probes. The random states are left unchanged.
    """
    states = draws.take()
    loss_func = copy_of(loss_func)
    try:
        for first, second in probes(preds, targets):
            draws.put(states)
            with Meeting(tuple(first.shape), tuple(second.shape)) as meeting:
                met = value_of(loss_func, first, second, states)
            if met is not None:
                return meeting.happened and differs(met, loss_func, first, second, states)
        return False
    finally:
        draws.put(states)


def differs(
    met: Tensor, loss_func: Callable[..., Any], first: Tensor, second: Tensor, states: dict[str, Any]
) -> bool:
    """Does the loss change if both have the same shape? It may accept only one of the two shapes."""
    both = [
        value_of(loss_func, first.reshape(second.shape), second, states),
        value_of(loss_func, first, second.reshape(first.shape), states),
    ]
    values = [value for value in both if value is not None]
    return bool(values) and not any(agree(met, value) for value in values)


def probes(preds: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Random preds and targets: of a few items; of all items; and with the targets themselves."""
    small = [tuple(min(size, N_ITEMS) for size in tensor.shape) for tensor in (preds, targets)]
    generator = torch.Generator().manual_seed(0)
    yield random_like(small[0], preds, generator), random_like(small[1], targets, generator)
    if prod(torch.broadcast_shapes(preds.shape, targets.shape)) <= MAX_ELEMENTS:
        whole = random_like(tuple(preds.shape), preds, generator)
        yield whole, random_like(tuple(targets.shape), targets, generator)
        yield whole, targets


def random_like(shape: Shape, like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers that suit most losses: floats in [0.1, 0.9], valid as probabilities; else 0 and 1."""
    numbers = torch.rand(shape, generator=generator) * 0.8 + 0.1
    numbers = numbers if like.is_floating_point() or like.is_complex() else numbers.round()
    return numbers.to(like.device, like.dtype)


def value_of(
    loss_func: Callable[..., Any], preds: Tensor, targets: Tensor, states: dict[str, Any]
) -> Tensor | None:
    """The loss as a flat tensor on the CPU, or None if there is no such value."""
    draws.put(states)
    with warnings.catch_warnings(), torch.enable_grad(), buffers_kept():
        warnings.simplefilter("ignore")
        try:
            value = loss_func(preds.clone().requires_grad_(preds.is_floating_point()) * 1, targets.clone())
        except Exception:  # noqa: BLE001 - a user's function may raise anything; the answer is then no
            return None
    return value.detach().cpu().flatten() if isinstance(value, Tensor) else None


def agree(first: Tensor, second: Tensor) -> bool:
    """Are two losses equal up to rounding?"""
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-4, atol=1e-6, equal_nan=True)


def copy_of(loss_func: Any) -> Any:
    """A copy of a loss function with a state, so that the probes do not change it."""
    try:
        return loss_func if loss_module(loss_func) is None else copy.deepcopy(loss_func)
    except RuntimeError:  # it holds tensors of a graph, which torch cannot copy
        return loss_func


class Meeting(TorchFunctionMode):
    """Record whether a torch function is called with tensors of both shapes."""

    def __init__(self, first: Shape, second: Shape):
        super().__init__()
        self.shapes, self.happened = {first, second}, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (*args, *(kwargs or {}).values())
        shapes = {tuple(item.shape) for item in given if isinstance(item, Tensor)}
        self.happened = self.happened or self.shapes <= shapes
        return func(*args, **(kwargs or {}))
