"""Checks that the calls of `LeanStep` can be made and compute what the ordinary ones do."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from callbacks.fast.lean_kernels import Kernel, Work, adam, sgd, update
from callbacks.model.norms import PRECISE

KERNELS: dict[type, Kernel] = {torch.optim.SGD: sgd, torch.optim.Adam: adam, torch.optim.AdamW: adam}

OF_EACH = ("params", "lr", "initial_lr")  #: what groups with the same settings may differ in
N_PROVEN = 3  #: updates that are compared: the first starts the momentum, the second uses it

# What a call raises if it no longer exists, takes other arguments, or does not work here.
MISSING = (AttributeError, KeyError, TypeError, ValueError, RuntimeError)


class Unfit(Exception):
    """The ordinary call must be made; the message says why."""


def find_engine() -> Callable[..., Any]:
    """What `Tensor.backward` calls in the end, tried on two numbers."""
    if logging.getLogger("torch.autograd.graph").isEnabledFor(logging.DEBUG):
        raise Unfit("autograd logs each node")
    try:
        engine = torch.autograd.Variable._execution_engine.run_backward  # type: ignore[attr-defined]
        with torch.enable_grad():
            weights = torch.tensor([2.0, 3.0], requires_grad=True, device="cpu", dtype=torch.float32)
            ones = torch.ones((), device="cpu")
            for _ in range(2):  # the second time adds to the first
                engine(((weights * weights).sum(),), (ones,), False, False, (), True, True)
        found = None if weights.grad is None else weights.grad.tolist()
    except MISSING as error:
        raise Unfit(
            f"torch {torch.__version__} has no engine that takes these arguments ({error})"
        ) from error
    if found != [8.0, 12.0]:
        raise Unfit(f"the engine returns {found} for the gradient of x**2 twice at [2, 3], not [8, 12]")
    return engine


def find_step(optimizer: Any) -> Callable[[Any], Any]:
    """The optimizer's own step without what `torch.optim` wraps around it, as a function of the optimizer."""
    return inspect.unwrap(type(optimizer).step)


def find_hooks(optimizer: Any) -> tuple[Any, ...]:
    """The hooks that run around a step, of this optimizer and of all; containers that later hooks join."""
    everywhere: Any = import_module("torch.optim.optimizer")
    try:
        return (
            optimizer._optimizer_step_pre_hooks,
            optimizer._optimizer_step_post_hooks,
            everywhere._global_optimizer_pre_hooks,
            everywhere._global_optimizer_post_hooks,
        )
    except AttributeError as error:
        raise Unfit(f"the hooks of its step cannot be found in torch {torch.__version__}") from error


def examine(optimizer: Any) -> Kernel | None:
    """The kernel of an optimizer; None where its own step is called, without its wrappers."""
    title = type(optimizer).__name__
    if type(optimizer) not in KERNELS:
        raise Unfit(f"the optimizer is {title}, and LeanStep knows SGD, Adam and AdamW of torch.optim")
    if not find_step(optimizer).__module__.startswith("torch.optim."):
        raise Unfit(f"{title}.step is not torch's")
    check_step(optimizer)
    if "zero_grad" in vars(optimizer):
        raise Unfit("its zero_grad was replaced")
    if any(getattr(optimizer, name, None) is not None for name in ("grad_scale", "found_inf")):
        raise Unfit("a gradient scaler drives its step")
    plain = True
    for group in optimizer.param_groups:
        check_group(group)
        plain = plain and not group.get("foreach") and not group.get("fused")
        plain = plain and all(each.is_cpu and each.dtype in PRECISE for each in group["params"])
    return KERNELS[type(optimizer)] if plain else None


def check_step(optimizer: Any) -> None:
    """Refuse an optimizer whose `step` has hooks, or was replaced by anything but a scheduler of torch."""
    own = vars(optimizer).get("step")
    if own is not None and not (
        hasattr(own, "_wrapped_by_lr_sched") and getattr(own, "__wrapped__", None) is type(optimizer).step
    ):
        raise Unfit("its step was replaced")
    if any(find_hooks(optimizer)):
        raise Unfit(f"hooks are registered on the step of {type(optimizer).__name__}")


def check_group(group: dict[str, Any]) -> None:
    """Refuse settings and parameters for which the wrappers matter."""
    for name in ("capturable", "differentiable"):
        if group.get(name):
            raise Unfit(f"it was made with {name}=True")
    for name, value in group.items():
        values = value if isinstance(value, (tuple, list)) and name != "params" else (value,)
        if any(isinstance(each, Tensor) for each in values) and name != "initial_lr":
            raise Unfit(f"its {name} is a tensor")
    for each in group["params"]:
        if type(each) not in (Tensor, torch.nn.Parameter):
            raise Unfit(f"a parameter is a {type(each).__name__}")
        if each.is_complex() or each.layout is not torch.strided:
            raise Unfit("a parameter is complex or sparse")


def gather(groups: list[dict[str, Any]], *, for_kernel: bool = False) -> Work:
    """What there is to update.

    Args:
        groups: the optimizer's.
        for_kernel: is a kernel called, so that weights must still be in float32 or float64?
    """
    work: Work = []
    for group in groups:
        if isinstance(group["lr"], Tensor) or isinstance(group["weight_decay"], Tensor):
            raise Unfit("its lr or weight_decay is a tensor")
        if group.get("capturable") or group.get("differentiable") or (for_kernel and group.get("fused")):
            raise Unfit("it was set to capturable, differentiable or fused during the fit")
        params, grads = [], []
        for each in group["params"]:
            grad = each.grad
            if grad is not None:
                if grad.is_sparse:
                    raise Unfit("a gradient is sparse")
                if for_kernel and grad.dtype not in PRECISE:
                    raise Unfit(f"weights have become {grad.dtype} during the fit")
                params.append(each)
                grads.append(grad)
        if params:
            work.append((group, params, grads))
    return work


def prove(kernel: Kernel, optimizer: Any) -> None:
    """Compare the kernel with the optimizer's own step on made-up numbers, with the settings of each group.

    Raises:
        Unfit: the kernel takes other arguments, or returns other bits.
    """
    ordinary, lean = made_up(optimizer), made_up(optimizer)
    with torch.no_grad():
        for _ in range(N_PROVEN):
            find_step(optimizer)(ordinary)
            try:
                update(kernel, lean.state, gather(lean.param_groups))
            except MISSING as error:
                title = f"torch {torch.__version__}"
                raise Unfit(f"its kernels take other arguments in {title} ({error})") from error
    wanted, found = numbers_of(ordinary), numbers_of(lean)
    if wanted.keys() != found.keys():
        raise Unfit(f"its kernels keep {sorted(found)}, not {sorted(wanted)}")
    for name, each in wanted.items():
        if not has_bits_of(found[name], each):
            raise Unfit(f"the {name} that its kernels compute differ from those of the ordinary step")


def made_up(optimizer: Any) -> Any:
    """An optimizer with the same settings, and two parameters of each data type in each group.

    Groups that differ in their rate alone are represented by one.
    """
    # the middle one is -0.0 with a gradient of 0.0, and remains -0.0
    numbers = torch.arange(17, -18, -1, device="cpu", dtype=torch.float64).neg() / 7
    groups: dict[str, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        kinds = dict.fromkeys(each.dtype for each in group["params"])
        settings = {name: value for name, value in group.items() if name not in OF_EACH}
        shapes = numbers, numbers.view(5, 7).t()
        params = [shaped.to(dtype, copy=True) for dtype in kinds for shaped in shapes]
        for each in params:
            each.grad = each.square()
        groups[repr((settings, kinds))] = {**group, "params": params}
    return type(optimizer)([*groups.values()])


def numbers_of(optimizer: Any) -> dict[str, Any]:
    """Weights, gradients and state, by names for messages."""
    found: dict[str, Any] = {}
    params = [each for group in optimizer.param_groups for each in group["params"]]
    for number, each in enumerate(params):
        named = {"weights": each, "gradients": each.grad, **optimizer.state.get(each, {})}
        found |= {f"{name} {number}": value for name, value in named.items()}
    return found


def has_bits_of(one: Any, other: Any) -> bool:
    """Are two values the same to the last bit, so that 0.0 and -0.0 differ?"""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and one == other
    same = one.dtype is other.dtype and one.shape == other.shape and one.stride() == other.stride()
    return same and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
