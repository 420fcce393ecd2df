"""The step of an optimizer, or of each of several, without the wrappers of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from callbacks.fast.lean_kernels import Kernel, update
from callbacks.fast.lean_proof import Unfit, check_step, examine, find_hooks, find_step, gather, prove
from callbacks.optim.optimizers import members_of

#: Not public; takes a third of the time of the public one, which creates an object.
set_grad_enabled: Callable[[bool], Any] = getattr(torch._C, "_set_grad_enabled", torch.set_grad_enabled)


class LeanUpdate:
    """Steps an optimizer without its wrappers; of several (`Optimizers`), each member by itself.

    Args:
        on_fallback: is called with the reason before the first ordinary step, and may raise.
    """

    def __init__(self, on_fallback: Callable[[str], object]):
        self._on_fallback = on_fallback
        self._optimizer: Any = None
        self._each: list[LeanOptimizer] = []
        self._is_joined = False  # is it one of several members?

    def step(self, optimizer: Any) -> None:
        """Update the weights."""
        if optimizer is not self._optimizer or self._is_joined:
            self._follow(optimizer)
        for one in self._each:
            one.step()

    def zero_grad(self, optimizer: Any) -> None:
        """Drop the gradients."""
        if optimizer is not self._optimizer:  # not one that was examined
            optimizer.zero_grad()
            return
        for one in self._each:
            one.zero_grad()

    def _follow(self, optimizer: Any) -> None:
        """Switch to another optimizer, or to the members that it has now."""
        members = members_of(optimizer)
        if optimizer is not self._optimizer or [one.optimizer for one in self._each] != [*members]:
            self._each = [LeanOptimizer(each, self._on_fallback) for each in members]
            self._optimizer, self._is_joined = optimizer, members != (optimizer,)
        if not self._is_joined:
            return
        try:
            check_step(optimizer)  # their common step does more than those of the members
        except Unfit as reason:  # the ordinary step is taken for the rest of the fit
            self._each, self._is_joined = [LeanOptimizer(optimizer, self._on_fallback)], False
            self._each[0].fall_back(reason)
        else:
            if "step" in vars(optimizer):  # a scheduler of torch marks here that a step was taken
                optimizer._opt_called = True


class LeanOptimizer:
    """Steps an optimizer without its wrappers, or with them for the rest of the fit where that is unsafe.

    Args:
        optimizer: is stepped.
        on_fallback: is called with the reason before the first ordinary step, and may raise.

    Attributes:
        reason: why the ordinary step is taken; None where it is not.
    """

    def __init__(self, optimizer: Any, on_fallback: Callable[[str], object]):
        self.optimizer, self._on_fallback = optimizer, on_fallback
        self.reason: str | None = None
        self._examined: Any = None  # how the optimizer looked
        self._kernel: Kernel | None = None
        self._bare_step: Callable[[Any], Any] = len
        self._hooks: tuple[Any, ...] = ()

    def step(self) -> None:
        """Update the weights."""
        optimizer = self.optimizer
        if self.reason is None:
            try:
                if looks(optimizer) != self._examined or any(self._hooks):
                    self._examine(optimizer)
                work = gather(optimizer.param_groups, for_kernel=self._kernel is not None)
            except Unfit as reason:
                self.fall_back(reason)
            else:
                self._step(optimizer, work)
                return
        optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        if self.reason is not None or self._examined is None:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for each in group["params"]:
                each.grad = None

    def _step(self, optimizer: Any, work: Any) -> None:
        if "step" in vars(optimizer):  # a scheduler of torch marks here that a step was taken
            optimizer._opt_called = True
        before = torch.is_grad_enabled()
        set_grad_enabled(False)
        try:
            if self._kernel is None:
                self._bare_step(optimizer)
            else:
                update(self._kernel, optimizer.state, work)
        finally:
            set_grad_enabled(before)

    def _examine(self, optimizer: Any) -> None:
        self._examined = None
        self._kernel = examine(optimizer)
        if self._kernel is not None:
            prove(self._kernel, optimizer)
        self._hooks, self._bare_step = find_hooks(optimizer), find_step(optimizer)
        self._examined = looks(optimizer)

    def fall_back(self, reason: Unfit) -> None:
        """Take the ordinary step from now on."""
        self.reason = str(reason)
        self._on_fallback(self.reason)


def looks(optimizer: Any) -> tuple[Any, ...]:
    """What must stay as it was examined: the number of groups, and methods that were replaced."""
    own = vars(optimizer)
    return len(optimizer.param_groups), own.get("step"), own.get("zero_grad")
