"""Tensors that several processes share, a part in each: the DTensors of `fully_shard`."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_shard(value: Any) -> bool:
    """Does this process hold only a part of the tensor? Nothing is imported to find that out."""
    if type(value) is Tensor:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def are_in(module: nn.Module) -> bool:
    """Is a parameter of the module shared by several processes?"""
    return any(is_shard(each) for each in module.parameters())


def local(tensor: Any) -> Any:
    """The part in this process, which shares the memory; any other tensor as it is."""
    return tensor.to_local() if is_shard(tensor) else tensor


def whole(tensor: Any) -> Any:
    """The whole tensor; every process must call this. Any other tensor as it is."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


@torch.no_grad()
def like(value: Any, target: Any) -> Any:
    """A whole tensor as one that is shared like the target; if the target is not shared, as it is.

    Every process must have the same whole tensor; nothing is sent.
    """
    if not is_shard(target) or is_shard(value) or value.shape != target.shape:
        return value
    value = value.detach().to(target.device)
    distribute = sys.modules["torch.distributed.tensor"].distribute_tensor
    return distribute(value, target.device_mesh, target.placements, src_data_rank=None)


def gathered(value: Any, *, is_wanted: bool) -> Any:
    """Plain data with whole tensors on the CPU instead of shared ones; every process must call this.

    If it is not wanted, the shared tensors are None.
    """
    if is_shard(value):
        found = value.detach().full_tensor()
        return found.cpu() if is_wanted else None
    if type(value) is dict:
        return {key: gathered(each, is_wanted=is_wanted) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(gathered(each, is_wanted=is_wanted) for each in value)
    return value
