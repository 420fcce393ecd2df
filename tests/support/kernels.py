"""Counts the kernels that a GPU would have to start: the calls of torch's kernels, by name."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Kernels(TorchDispatchMode):
    """Counts kernels while it is entered, with a call for many tensors as one: `n["_foreach_copy_"]`."""

    def __init__(self) -> None:
        super().__init__()
        self.n: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))
