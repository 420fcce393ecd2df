"""The updates of torch's SGD, Adam and AdamW on a CPU, by the kernels that torch calls, several at a time.

For each parameter the operations are those of `torch.optim`, on the same numbers and in the same order, so
the results have the same bits. On a CPU `torch._foreach_add_` and similar functions are loops over the
tensors in C++, so one call for all parameters saves the Python between them.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor

from callbacks.fast.fallback_reasons import Unfit
from callbacks.model.norms import PRECISE

private: Any = torch  #: whose `_foreach` functions are not public

Group = dict[str, Any]
Kernel = Callable[[Any, Group, list[Tensor], list[Tensor]], None]
#: A group, those of its parameters that have gradients, and their gradients.
Work = list[tuple[Group, list[Tensor], list[Tensor]]]

#: Numbers that are updated together. What lies between two operations on them stays in the processor's cache,
#: and only these are held twice.
N_TOGETHER = 2**18


def sgd(state: Any, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
    """One update of `torch.optim.SGD`, in a context without gradients.

    Args:
        state: the optimizer's, by parameter.
        group: the settings.
        params: those of the group that have gradients.
        grads: their gradients, `decayed`; they are not changed.
    """
    momentum = group["momentum"]
    if momentum != 0:
        buffers = moved(state, params, grads, momentum, 1 - group["dampening"])
        grads = list(private._foreach_add(grads, buffers, alpha=momentum)) if group["nesterov"] else buffers
    private._foreach_add_(params, grads, alpha=-group["lr"])


def moved(
    state: Any, params: list[Tensor], grads: list[Tensor], momentum: float, share: float
) -> list[Tensor]:
    """The momentum buffers after this step; a parameter's first one is its gradient."""
    old: list[Tensor] = []
    theirs: list[Tensor] = []
    for each, grad in zip(params, grads, strict=True):
        buffer = state[each].get("momentum_buffer")
        if buffer is None:
            state[each]["momentum_buffer"] = grad.detach().clone()
        else:
            old.append(buffer)
            theirs.append(grad)
    if old:
        private._foreach_mul_(old, momentum)
        private._foreach_add_(old, theirs, alpha=share)
    return [state[each]["momentum_buffer"] for each in params]


def adam(state: Any, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
    """One update of `torch.optim.Adam` or `AdamW`; takes what `sgd` takes."""
    states = [state[each] or begun(state[each], each, group) for each in params]
    means, squares = [each["exp_avg"] for each in states], [each["exp_avg_sq"] for each in states]
    counts, lr, (beta1, beta2) = [each["step"] for each in states], group["lr"], group["betas"]
    private._foreach_add_(counts, 1)
    if group["decoupled_weight_decay"] and group["weight_decay"] != 0:
        private._foreach_mul_(params, 1 - lr * group["weight_decay"])
    private._foreach_lerp_(means, grads, 1 - beta1)
    private._foreach_mul_(squares, beta2)
    private._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    if group["amsgrad"]:
        largest = [each["max_exp_avg_sq"] for each in states]
        private._foreach_maximum_(largest, squares)
        squares = largest
    numbers = [each.item() for each in counts]  # they are on the CPU: there is no wait
    sizes = private._foreach_sqrt(squares)
    private._foreach_div_(sizes, [(1 - beta2**n) ** 0.5 for n in numbers])
    private._foreach_add_(sizes, group["eps"])
    private._foreach_addcdiv_(params, means, sizes, [-(lr / (1 - beta1**n)) for n in numbers])


def begun(state: dict[str, Tensor], param: Tensor, group: Group) -> dict[str, Tensor]:
    """Adam's state of a parameter before its first step."""
    dtype = torch.float64 if torch.get_default_dtype() is torch.float64 else torch.float32
    state["step"] = torch.tensor(0.0, dtype=dtype, device="cpu")
    for name in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])):
        state[name] = torch.zeros_like(param, memory_format=torch.preserve_format)
    return state


def decayed(group: Group, params: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """The gradients with the sign of `maximize` and the weight decay that is a part of them."""
    if group["maximize"]:
        grads = list(private._foreach_neg(grads))
    if group["weight_decay"] != 0 and not group.get("decoupled_weight_decay"):
        grads = list(private._foreach_add(grads, params, alpha=group["weight_decay"]))
    return grads


def gather(groups: list[dict[str, Any]]) -> Work:
    """The parameters to update: those with gradients, for each group of an optimizer."""
    work: Work = []
    for group in groups:
        if isinstance(group["lr"], Tensor) or isinstance(group["weight_decay"], Tensor):
            raise Unfit("its lr or weight_decay is a tensor")
        if group.get("capturable") or group.get("differentiable") or group.get("fused"):
            raise Unfit("it was set to capturable, differentiable or fused during the fit")
        params: list[Tensor] = []
        grads: list[Tensor] = []
        for each in group["params"]:
            grad = each.grad
            if grad is not None:
                if grad.is_sparse:
                    raise Unfit("a gradient is sparse")
                if grad.dtype not in PRECISE:
                    raise Unfit(f"weights have become {grad.dtype} during the fit")
                params.append(each)
                grads.append(grad)
        if params:
            work.append((group, params, grads))
    return work


def update(kernel: Kernel, state: Any, work: Work) -> None:
    """Call a kernel for all parameters, in runs of about `N_TOGETHER` numbers."""
    for group, params, grads in work:
        if len(params) == 1 or sum(map(Tensor.numel, params)) <= N_TOGETHER:
            kernel(state, group, params, decayed(group, params, grads))
            continue
        ends = accumulate(map(Tensor.numel, params))
        for _, run in groupby(zip(ends, params, grads, strict=True), lambda each: each[0] // N_TOGETHER):
            _, some, theirs = map(list, zip(*run, strict=True))
            kernel(state, group, some, decayed(group, some, theirs))
