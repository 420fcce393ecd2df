"""The step of one optimizer, for `LeanStep`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from callbacks.core.warning import warn
from callbacks.fast.lean_kernels import Kernel, update
from callbacks.fast.lean_proof import Unfit, examine, find_hooks, find_step, gather, prove

#: Updates of a fit that are computed twice and compared: the first starts the momentum, the second uses it.
N_PROVEN = 2

#: Not public, and a third of the public one's time, whose object it spares.
set_grad_enabled: Callable[[bool], Any] = getattr(torch._C, "_set_grad_enabled", torch.set_grad_enabled)


class LeanOptimizer:
    """Steps an optimizer without its wrappers, or with them for the rest of the fit where that is not sure.

    Args:
        optimizer: which one.
        on_fallback: is called with the reason, before the first ordinary step, which may raise.

    Attributes:
        reason: why the ordinary step is taken; None where it is not.
    """

    def __init__(self, optimizer: Any, on_fallback: Callable[[str], None]):
        self.optimizer, self._on_fallback = optimizer, on_fallback
        self.reason: str | None = None
        self._is_examined = False
        self._kernel: Kernel | None = None
        self._bare_step: Callable[[Any], Any] = len
        self._hooks: tuple[Any, ...] = ()
        self._own_step: Any = None
        self._n_groups = self._n_unproven = 0

    def step(self) -> None:
        """Update the weights."""
        optimizer = self.optimizer
        if self.reason is None:
            try:
                if not self._is_examined or self._has_changed(optimizer):
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
        if self.reason is not None or not self._is_examined:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:
            for each in group["params"]:
                each.grad = None

    def _step(self, optimizer: Any, work: Any) -> None:
        if self._own_step is not None:  # a scheduler's of torch, which marks here that a step was taken
            optimizer._opt_called = True
        before = torch.is_grad_enabled()
        set_grad_enabled(False)
        try:
            if self._kernel is None:
                self._bare_step(optimizer)
            elif not self._n_unproven:
                update(self._kernel, optimizer.state, work)
            else:
                self._n_unproven -= 1
                prove(self._kernel, optimizer, work)
        except Unfit as reason:  # the ordinary step has been taken
            self.fall_back(reason)
        finally:
            set_grad_enabled(before)

    def _has_changed(self, optimizer: Any) -> bool:
        """Has it other groups, another step, or hooks since it was examined?"""
        return (
            len(optimizer.param_groups) != self._n_groups
            or vars(optimizer).get("step") is not self._own_step
            or "zero_grad" in vars(optimizer)
            or any(self._hooks)
        )

    def _examine(self, optimizer: Any) -> None:
        self._is_examined = False
        self._kernel = examine(optimizer)
        self._hooks, self._bare_step = find_hooks(optimizer), find_step(optimizer)
        self._own_step, self._n_groups = vars(optimizer).get("step"), len(optimizer.param_groups)
        self._is_examined, self._n_unproven = True, N_PROVEN

    def fall_back(self, reason: Unfit) -> None:
        """Take the ordinary step from now on."""
        self.reason = str(reason)
        self._on_fallback(self.reason)
        tell("step", "optimizer.step()", reason)


def tell(operation: str, call: str, reason: Unfit) -> None:
    """Warn that an ordinary call is made, and why."""
    warn(f"LeanStep: {operation} uses the ordinary {call}, since {reason}.")
