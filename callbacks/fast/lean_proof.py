"""Checks that the calls of `LeanStep` can be made and compute what the ordinary ones do."""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from callbacks.fast.lean_kernels import Kernel, Work, adam, sgd, update
from callbacks.model.norms import PRECISE

KERNELS: dict[type, Kernel] = {torch.optim.SGD: sgd, torch.optim.Adam: adam, torch.optim.AdamW: adam}

FEW = 2**20  # bytes of parameters, up to which a proof has all of them

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


def few(work: Work) -> Work:
    """For large models the small parameters of each group, so that copies take little memory.

    The kernels compute the same for each number. The result holds a 256th of all bytes, or a megabyte if that
    is more, and at least one parameter of each group.
    """
    room = max(FEW, sum(each.nbytes for _, params, _ in work for each in params) // 256)
    found: Work = []
    for group, params, grads in work:
        picked: list[int] = []
        for number in sorted(range(len(params)), key=lambda each: params[each].nbytes):
            room -= params[number].nbytes
            if room >= 0 or not picked:
                picked.append(number)
        picked.sort()
        found.append((group, [params[each] for each in picked], [grads[each] for each in picked]))
    return found


def prove(kernel: Kernel, optimizer: Any, work: Work) -> None:
    """Take the ordinary step, call the kernel on copies of what the step changes, and compare.

    Raises:
        Unfit: the kernel takes other arguments, or returns other numbers. The ordinary step has been taken.
    """
    work = few(work)
    copies, state = copied(optimizer.state, work)
    failure: Exception | None = None
    try:
        update(kernel, state, copies)
    except MISSING as error:
        failure = error
    find_step(optimizer)(optimizer)
    if failure is not None:
        raise Unfit(f"its kernels take other arguments in torch {torch.__version__} ({failure})") from failure
    for (_, params, grads), (_, others, their_grads) in zip(work, copies, strict=True):
        for number, (one, other) in enumerate(zip(params, others, strict=True)):
            compare("weights", one, other)
            compare("gradients", grads[number], their_grads[number])
            compare("state", optimizer.state.get(one, {}), state.get(other, {}))


def copied(state: Any, work: Work) -> tuple[Work, Any]:
    """Copies of parameters and gradients, and their state by parameter."""
    copies: Work = []
    states: Any = defaultdict(dict)
    for group, params, grads in work:
        clones = [each.detach().clone() for each in params]
        for one, other in zip(params, clones, strict=True):
            if one in state:
                states[other] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in state[one].items()}
        copies.append((group, clones, [each.clone() for each in grads]))
    return copies, states


def compare(what: str, one: Any, other: Any) -> None:
    """Refuse numbers that differ from the ordinary step's; NaN equals NaN."""
    if isinstance(one, dict):
        if list(one) != list(other):
            raise Unfit(f"in its first steps it keeps {list(other)}, not {list(one)}")
        for name, value in one.items():
            compare(f"{what} ({name})", value, other[name])
    elif isinstance(one, Tensor):
        same = one.dtype is other.dtype and one.shape == other.shape and one.stride() == other.stride()
        if not same or not torch.allclose(one, other, rtol=0, atol=0, equal_nan=True):  # on the CPU
            raise Unfit(f"in its first steps the {what} differ from those of the ordinary step")
    elif one != other:
        raise Unfit(f"in its first steps the {what} were {other!r}, not {one!r}")
