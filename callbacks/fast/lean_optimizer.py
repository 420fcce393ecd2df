"""The step of an optimizer, or of each of several, without the wrappers of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from callbacks.fast.fallback_reasons import Unfit
from callbacks.fast.lean_kernels import Kernel, adam, gather, sgd, update
from callbacks.model.norms import PRECISE
from callbacks.optim.optimizers import members_of

KERNELS: dict[type, Kernel] = {torch.optim.SGD: sgd, torch.optim.Adam: adam, torch.optim.AdamW: adam}
N_PROVEN = 3  #: updates that are compared: the first starts the momentum, the second uses it
#: What a call raises if it no longer exists, takes other arguments, or does not work here.
MISSING = (AttributeError, KeyError, TypeError, ValueError, RuntimeError)
ZERO_GRAD = torch.optim.Optimizer.zero_grad
#: Not public; takes a third of the time of the public one, which creates an object.
set_grad_enabled: Callable[[bool], Any] = getattr(torch._C, "_set_grad_enabled", torch.set_grad_enabled)


class LeanUpdate:
    """Steps an optimizer without its wrappers; of several (`Optimizers`), each member by itself.

    Args:
        on_fallback: is called with the reason before the first ordinary step, and may raise.
    """

    def __init__(self, on_fallback: Callable[[str], object]):
        self._on_fallback = on_fallback
        self._members: tuple[Any, ...] = ()
        self._each: list[LeanOptimizer] = []

    def step(self, optimizer: Any) -> None:
        """Update the weights."""
        members = members_of(optimizer)
        if members[0] is not optimizer:
            if own_step(optimizer):  # their common step does more than the steps of the members
                members = (optimizer,)
            else:
                mark(optimizer)
        if members != self._members:
            self._members = members
            self._each = [LeanOptimizer(each, self._on_fallback) for each in members]
        for one in self._each:
            one.step()


class LeanOptimizer:
    """Steps an optimizer without its wrappers, or with them for the rest of the fit where that is unsafe.

    Args:
        optimizer: is stepped.
        on_fallback: is called with the reason before the first ordinary step, and may raise.
    """

    def __init__(self, optimizer: Any, on_fallback: Callable[[str], object]):
        self._optimizer, self._on_fallback = optimizer, on_fallback
        self._is_ordinary = False
        self._examined: Any = None  # how the optimizer looked
        self._kernel: Kernel | None = None
        self._bare_step: Callable[[Any], Any] = inspect.unwrap(type(optimizer).step)
        self._hooks: tuple[Any, ...] = ()

    def step(self) -> None:
        """Update the weights."""
        optimizer = self._optimizer
        if self._is_ordinary:
            optimizer.step()
            return
        try:
            if looks(optimizer) != self._examined or any(self._hooks):
                self._examine(optimizer)
            work = [] if self._kernel is None else gather(optimizer.param_groups)
        except Unfit as reason:
            self._is_ordinary = True
            self._on_fallback(str(reason))
            optimizer.step()
            return
        mark(optimizer)
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
        try:
            self._hooks, self._kernel = hooks_of(optimizer), examine(optimizer)
        except MISSING as error:
            raise Unfit(
                "the functions that it calls are missing or take other arguments in torch "
                f"{torch.__version__} ({error})"
            ) from error
        self._examined = looks(optimizer)


def zero_grad(optimizer: Any) -> None:
    """Drop the gradients in one pass; call the optimizer's own `zero_grad` if that is not torch's."""
    if type(optimizer).zero_grad is not ZERO_GRAD or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for each in group["params"]:
            each.grad = None


def mark(optimizer: Any) -> None:
    """Note that a step was taken, where a scheduler of torch looks for that."""
    if "step" in vars(optimizer):
        optimizer._opt_called = True


def looks(optimizer: Any) -> tuple[Any, ...]:
    """What must not change after the examination: the number of groups, and methods."""
    own = vars(optimizer)
    return len(optimizer.param_groups), own.get("step"), own.get("zero_grad"), type(optimizer).step


def hooks_of(optimizer: Any) -> tuple[Any, ...]:
    """The hooks that run around a step, of this optimizer and of all; containers that later hooks join."""
    everywhere: Any = import_module("torch.optim.optimizer")
    return (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        everywhere._global_optimizer_pre_hooks,
        everywhere._global_optimizer_post_hooks,
    )


def own_step(optimizer: Any) -> str:
    """What the step of an optimizer does in addition to that of its class, in words; "" if nothing.

    A scheduler of torch also replaces `step`, to note that it was called.
    """
    own = vars(optimizer).get("step")
    is_noted = hasattr(own, "_wrapped_by_lr_sched") and own.__wrapped__ is type(optimizer).step
    if own is not None and not is_noted:
        return "its step was replaced"
    title = type(optimizer).__name__
    return f"hooks are registered on the step of {title}" if any(hooks_of(optimizer)) else ""


def examine(optimizer: Any) -> Kernel | None:
    """The kernel of an optimizer; None where its own step is called, without its wrappers."""
    title, kernel, groups = type(optimizer).__name__, KERNELS.get(type(optimizer)), optimizer.param_groups
    if reason := own_step(optimizer):
        raise Unfit(reason)
    if kernel is None:
        raise Unfit(
            f"the optimizer is {title}, but LeanStep supports only SGD, Adam and AdamW of torch.optim"
        )
    if not inspect.unwrap(type(optimizer).step).__module__.startswith("torch.optim."):
        raise Unfit(f"{title}.step is not torch's")
    if "zero_grad" in vars(optimizer):
        raise Unfit("its zero_grad was replaced")
    for group in groups:
        check_settings(group)
    params = [each for group in groups for each in group["params"]]
    if any(map(Tensor.is_complex, params)):
        raise Unfit("a parameter is complex")
    if any(each.get("foreach") or each.get("fused") for each in groups) or not all(map(is_plain, params)):
        return None
    prove(kernel, optimizer)
    return kernel


def check_settings(group: dict[str, Any]) -> None:
    """Refuse settings for which the wrappers matter, and tensors."""
    for name, value in group.items():
        if name in ("capturable", "differentiable") and value:
            raise Unfit(f"it was made with {name}=True")
        if isinstance(value, Tensor) or (name == "betas" and isinstance(value[0], Tensor)):
            raise Unfit(f"its {name} is a tensor")


def is_plain(param: Tensor) -> bool:
    """Does a kernel take this parameter?"""
    is_dense = type(param) in (Tensor, torch.nn.Parameter) and param.layout is torch.strided
    return is_dense and param.is_cpu and param.dtype in PRECISE


def prove(kernel: Kernel, optimizer: Any) -> None:
    """Compare the kernel with the optimizer's own step on made-up numbers, with the settings of each group.

    Raises:
        Unfit: the kernel returns other bits.
    """
    ordinary, lean = made_up(optimizer), made_up(optimizer)
    with torch.no_grad():
        for _ in range(N_PROVEN):
            inspect.unwrap(type(optimizer).step)(ordinary)
            update(kernel, lean.state, gather(lean.param_groups))
    if bits_of(ordinary) != bits_of(lean):
        raise Unfit("the numbers that its kernels compute differ from those of the ordinary step")


def made_up(optimizer: Any) -> Any:
    """An optimizer with the same settings, and two parameters of each data type in each group.

    Groups that differ only in their rate are represented by one.
    """
    # the middle one is -0.0 with a gradient of 0.0, and remains -0.0
    numbers = torch.arange(17, -18, -1, device="cpu", dtype=torch.float64).neg() / 7
    shapes = numbers, numbers.view(5, 7).t()
    rates = {"lr": None, "initial_lr": None, "params": None}
    groups = {repr({**each, **rates}): each for each in optimizer.param_groups}
    made: list[dict[str, Any]] = []
    for group in groups.values():
        params = [each.to(dtype, copy=True) for dtype in PRECISE for each in shapes]
        for each in params:
            each.grad = each.square()
        made.append({**group, "params": params})
    return type(optimizer)(made)


def bits_of(optimizer: Any) -> list[Any]:
    """Weights, gradients and state to the last bit, so that 0.0 and -0.0 differ."""
    params = [each for group in optimizer.param_groups for each in group["params"]]
    named = [{"weight": each, "gradient": each.grad, **optimizer.state[each]} for each in params]
    return [{name: bits(value) for name, value in each.items()} for each in named]


def bits(value: Any) -> Any:
    """What distinguishes a value from others."""
    if not isinstance(value, Tensor):
        return value
    # `tolist` of a storage is slow
    memory = value.new_empty(0, dtype=torch.uint8).set_(value.untyped_storage())
    return value.dtype, value.stride(), memory.tolist()
