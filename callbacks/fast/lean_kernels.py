"""The updates of torch's SGD, Adam and AdamW on a CPU, by the kernels that torch calls, several at a time.

For each parameter the operations are those of `torch.optim`, on the same numbers and in the same order, so
the results have the same bits. On a CPU `torch._foreach_add_` and similar functions are loops over the
tensors in C++, so one call for all parameters saves the Python between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

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
        grads: their gradients, which are not changed.
    """
    decay, momentum = group["weight_decay"], group["momentum"]
    if group["maximize"]:
        grads = list(private._foreach_neg(grads))
    if decay != 0:
        grads = list(private._foreach_add(grads, params, alpha=decay))
    if momentum != 0:
        buffers = moved(state, params, grads, momentum, 1 - group["dampening"])
        grads = list(private._foreach_add(grads, buffers, alpha=momentum)) if group["nesterov"] else buffers
    private._foreach_add_(params, grads, alpha=-group["lr"])


def moved(
    state: Any, params: list[Tensor], grads: list[Tensor], momentum: float, share: float
) -> list[Tensor]:
    """The momentum buffers after this step; a parameter's first one is its gradient."""
    buffers = [state[each].get("momentum_buffer") for each in params]
    old = [(buffer, grad) for buffer, grad in zip(buffers, grads, strict=True) if buffer is not None]
    if old:
        known = [buffer for buffer, _ in old]
        private._foreach_mul_(known, momentum)
        private._foreach_add_(known, [grad for _, grad in old], alpha=share)
    if len(old) < len(params):
        for number, each in enumerate(params):
            if buffers[number] is None:
                buffers[number] = state[each]["momentum_buffer"] = grads[number].detach().clone()
    return buffers


def adam(state: Any, group: Group, params: list[Tensor], grads: list[Tensor]) -> None:
    """One update of `torch.optim.Adam` or `AdamW`; takes what `sgd` takes."""
    states = [state[each] or begun(state[each], each, group) for each in params]
    means, squares = [each["exp_avg"] for each in states], [each["exp_avg_sq"] for each in states]
    counts = [each["step"] for each in states]
    lr, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
    if group["maximize"]:
        grads = list(private._foreach_neg(grads))
    private._foreach_add_(counts, 1)
    if decay != 0 and group["decoupled_weight_decay"]:
        private._foreach_mul_(params, 1 - lr * decay)
    elif decay != 0:
        grads = list(private._foreach_add(grads, params, alpha=decay))
    private._foreach_lerp_(means, grads, 1 - beta1)
    private._foreach_mul_(squares, beta2)
    private._foreach_addcmul_(squares, grads, grads, 1 - beta2)
    if group["amsgrad"]:
        squares = [largest(each) for each in states]
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


def largest(state: dict[str, Tensor]) -> Tensor:
    """AMSGrad's largest second moment so far, brought up to date."""
    found = state["max_exp_avg_sq"]
    return torch.maximum(found, state["exp_avg_sq"], out=found)


def update(kernel: Kernel, state: Any, work: Work) -> None:
    """Call a kernel for all parameters, in runs of at most `N_TOGETHER` numbers."""
    for group, params, grads in work:
        if len(params) == 1:
            kernel(state, group, params, grads)
            continue
        for some, theirs in pieces(params, grads):
            kernel(state, group, some, theirs)


def pieces(params: list[Tensor], grads: list[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Parameters and gradients in runs of at most `N_TOGETHER` numbers, or one parameter."""
    sizes = list(map(Tensor.numel, params))
    if sum(sizes) <= N_TOGETHER:
        yield params, grads
        return
    begin = total = 0
    for end, size in enumerate(sizes):
        if total + size > N_TOGETHER and end > begin:
            yield params[begin:end], grads[begin:end]
            begin, total = end, 0
        total += size
    yield params[begin:], grads[begin:]
