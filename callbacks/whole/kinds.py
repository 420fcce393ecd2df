"""What a program is made for: the kind of a batch, and random numbers of torch alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from callbacks.core import draws
from callbacks.fast.lean_proof import Unfit


def key_of(inputs: Any, targets: Any) -> tuple[Any, list[Any]]:
    """What a program is made for, and the leaves of the batch."""
    if type(inputs) is tuple and type(targets) is Tensor:
        leaves, spec = [*inputs, targets], None
        if all(type(each) is Tensor for each in leaves):
            return tuple([(each.shape, each.dtype, each.stride()) for each in leaves]), leaves
    leaves, spec = pytree.tree_flatten((inputs, targets))
    kinds = [
        (each.shape, each.dtype, each.stride()) if isinstance(each, Tensor) else check_plain(each)
        for each in leaves
    ]
    return (spec, *kinds), leaves


def check_plain(leaf: Any) -> tuple[type, Any]:
    """A value that is not a tensor is a part of the program, if it is compared by value."""
    if not isinstance(leaf, (int, float, str, bool, bytes, type(None))):
        raise Unfit(f"the batch holds a {type(leaf).__name__}")
    return type(leaf), leaf


def check_draws(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Refuse random numbers that a program would draw once.

    Raises:
        Unfit: the forward pass or the loss draws from Python's or NumPy's.
    """
    for name in ("python", "numpy"):
        if name in before and name in after and draws.differ(name, before[name], after[name]):
            raise Unfit(f"the forward pass or the loss draws random numbers of {name}")
