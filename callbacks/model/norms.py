"""The norm of many tensors together, and clipping by it, quicker than `torch.nn.utils` for small tensors.

Torch sorts tensors by device and type first, which takes a third of the time if there is only one of each.
The numbers are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from callbacks.model.shards import is_shard, local, whole

#: In half precision on a CPU `torch._foreach_mul_` rounds differently from `mul_` (PyTorch 2.13), which two
#: updates may not show.
PRECISE = (torch.float32, torch.float64)


@torch.no_grad()
def total_norm(tensors: Sequence[Tensor], norm_type: float = 2.0) -> Tensor:
    """The norm of all numbers together, as of `torch.nn.utils.get_total_norm`; 0 for none."""
    return norm_of(tensors, norm_type, is_one_kind=are_alike(tensors))


@torch.no_grad()
def clip_by_norm(tensors: Sequence[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
    """Multiply all by `max_norm / (norm + 1e-6)` in place if that is below 1; returns the norm before."""
    is_one_kind = are_alike(tensors)
    norm = norm_of(tensors, norm_type, is_one_kind=is_one_kind)
    tensors = [local(each) for each in tensors] if tensors and is_shard(tensors[0]) else tensors
    share = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
    if share.is_cpu and share.item() == 1:  # on a device this would wait
        return norm
    if is_one_kind:
        torch._foreach_mul_(tensors, share)  # type: ignore[reportPrivateImportUsage]
        return norm
    for some in kinds_of(tensors):
        its_share = share.to(some[0].device)
        if not some[0].is_cpu:
            torch._foreach_mul_(some, its_share)  # type: ignore[reportPrivateImportUsage]
            continue
        for each in some:
            each.mul_(its_share)
    return norm


def norm_of(tensors: Sequence[Tensor], norm_type: float, *, is_one_kind: bool) -> Tensor:
    """The norm of tensors; `is_one_kind` if they have one device and type."""
    if tensors and is_shard(tensors[0]):
        return whole(get_total_norm(tensors, norm_type))
    if not is_one_kind:
        try:
            return get_total_norm(tensors, norm_type)
        except NotImplementedError:  # of sparse gradients
            if not any(each.is_sparse for each in tensors):
                raise
            dense = [each.coalesce().values() if each.is_sparse else each for each in tensors]
            return get_total_norm(dense, norm_type)
    norms = torch._foreach_norm(tensors, norm_type)  # type: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(norms), norm_type)


def are_alike(tensors: Sequence[Tensor]) -> bool:
    """Are they dense, of one type and device, and on a CPU in float32 or float64?"""
    if not tensors:
        return False
    device, dtype = tensors[0].device, tensors[0].dtype
    return (dtype in PRECISE or device.type != "cpu") and all(
        each.dtype is dtype and each.device == device and each.layout is torch.strided for each in tensors
    )


def kinds_of(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors of each device and type."""
    found: dict[Any, list[Tensor]] = {}
    for each in tensors:
        found.setdefault((each.device, each.dtype), []).append(each)
    return list(found.values())
