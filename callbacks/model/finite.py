"""Where NaN and infinity are errors, and where they are intended.

They are an error in trained parameters, and so is NaN in statistics such as those of batch norm. Elsewhere
they may be intended: -inf in a mask, NaN for "not yet" in a memory bank, a frozen placeholder.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from callbacks.model.shards import is_shard, whole


def count_bad(weights: Iterable[Tensor]) -> Tensor:
    """How many numbers of all weights are NaN or infinite. On the first one's device; nothing waits."""
    counts = [whole((~each.detach().isfinite()).sum()) for each in weights if each.is_floating_point()]
    return torch.stack([count.to(counts[0].device) for count in counts]).sum() if counts else torch.tensor(0)


def first_bad(found: dict[str, Tensor], tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor in which NaN or infinity is an error; None without one. Waits.

    `found` are the parameters and buffers with the names of the `tensors`, which show what each of them is.
    """
    for name, tensor in tensors.items():
        if n_bad(name, found.get(name, tensor), tensor):
            return name
    return None


def suspects(found: dict[str, Tensor]) -> list[str]:
    """Names of tensors whose numbers may be an error: not those of finite parameters. One wait."""
    trained = {
        name: each.detach()
        for name, each in found.items()
        if isinstance(each, nn.Parameter) and each.requires_grad and not is_lazy(each)
        if each.is_floating_point() and each.layout is torch.strided
    }
    sums = [whole(sum_of(each)) for each in trained.values()]
    flags = torch.stack([each.to(sums[0].device) for each in sums]).isfinite().tolist() if sums else []
    good = {name for name, is_good in zip(trained, flags, strict=True) if is_good}
    return [name for name in found if is_statistic(name) or name not in good]


def sum_of(tensor: Tensor) -> Tensor:
    """A number that is finite only if all of the tensor are; that of large numbers may be infinite too.

    A sum in another dtype would copy the tensor. This takes 0.2 s for a gigabyte in float32, where
    `isfinite` takes 5 s (one core of a server CPU).
    """
    if tensor.dtype is torch.float16 and not is_shard(tensor) and tensor.numel():
        low, high = tensor.aminmax()  # a sum of such numbers is often larger than 65504
        return (high - low).float()
    return tensor.sum(dtype=torch.float32) if tensor.itemsize == 1 else tensor.sum().float()


def nan_buffers(found: dict[str, Tensor]) -> set[str]:
    """Names of buffers that hold NaN, except statistics, for which that is an error. One wait."""
    buffers = {
        name: each
        for name, each in found.items()
        if not isinstance(each, nn.Parameter) and not is_statistic(name) and not is_lazy(each)
        if each.is_floating_point() and each.layout is torch.strided and not each.is_meta and each.numel()
    }
    if not buffers:
        return set()
    flags = [has_nan(each) for each in buffers.values()]
    are_bad = torch.stack([flag.to(flags[0].device) for flag in flags]).tolist()
    return {name for name, is_bad in zip(buffers, are_bad, strict=True) if is_bad}


def has_nan(tensor: Tensor) -> Tensor:
    """Is one of the numbers NaN? Without a copy of the tensor, and eight times as fast as `isnan`."""
    return tensor.isnan().any() if tensor.itemsize == 1 else tensor.amin().isnan()  # float8 has no `amin`


def n_bad(name: str, kind: Tensor, tensor: Tensor) -> int:
    """How many numbers of a tensor are an error. Waits for the device.

    `kind` is the parameter or buffer itself; a buffer named `running_...` holds statistics.
    """
    if is_lazy(kind) or not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    numbers = tensor._values() if tensor.layout is torch.sparse_coo else tensor
    if isinstance(kind, nn.Parameter):
        return int(whole((~numbers.isfinite()).sum())) if kind.requires_grad else 0
    return int(numbers.isnan().sum()) if is_statistic(name) else 0


def is_statistic(name: str) -> bool:
    """Is it a buffer in which NaN is never intended, by torch's names for its norm layers?"""
    return name.rpartition(".")[2].startswith("running_")


def bad_gradients(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the parameters whose gradient is NaN or infinite. Waits for the device."""
    return [name for name, each in named if each.grad is not None and not is_finite(each.grad)]


def is_finite(tensor: Tensor) -> bool:
    """Are all its numbers finite? Waits for the device."""
    if tensor.layout is torch.sparse_coo:
        tensor = tensor._values()
    return bool(whole(torch.isfinite(tensor).all()))
