"""Count the bytes that tensors hold, as they come and go."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks.place.device import tensors_in


class OverLimit(MemoryError):
    """The tensors hold more bytes than they may.

    Attributes:
        held: how many.
    """

    def __init__(self, message: str, held: int):
        super().__init__(message)
        self.held = held


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors that are made within the block, on any device, until each is freed.

    What was there before does not count, but for `held`. Views and shared memory count once. What a kernel
    takes for itself, as a convolution for its columns, is not seen, nor what compiled code makes within; nor
    is memory that an allocator keeps.

    Args:
        held: tensors that are there already and count, as a model's weights.
        limit: so many bytes may be held; None for any.

    Attributes:
        now: bytes that are held.
        peak: the most that were held since the beginning.

    Raises:
        OverLimit: an operation has made more than `limit`; its result is freed again.
    """

    def __init__(self, held: Iterable[Tensor] = (), *, limit: float | None = None):
        super().__init__()
        self.limit = limit
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}  # of each storage, by where it is
        self._watches: dict[int, weakref.ref[Any]] = {}
        for tensor in held:
            self._see(tensor, is_new=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in tensors_in((args, kwargs)):
            self._see(tensor, is_new=False)
        found = func(*args, **kwargs)
        for tensor in tensors_in(found):
            self._see(tensor, is_new=True)
        if self.limit is not None and self.now > self.limit:
            words = f"{func} made the tensors hold {self.now:,} bytes, of {self.limit:,.0f}."
            raise OverLimit(words, self.now)
        return found

    def _see(self, tensor: Tensor, *, is_new: bool) -> None:
        """Count a tensor's storage if nothing has shown it before, or if it has grown."""
        if tensor.layout is not torch.strided or is_lazy(tensor):
            return
        storage = tensor.untyped_storage()
        if storage.device.type == "meta":  # of what torch.compile tries out; it has no bytes
            return
        key = storage._cdata  # not id(): another may have it once this one is gone
        if key not in self._watches:
            self._sizes[key] = 0
            self._watches[key] = weakref.ref(storage, lambda _, key=key: self._forget(key))
            counts = is_new
        else:
            counts = self._sizes[key] > 0
        if counts:
            self.now += storage.nbytes() - self._sizes[key]
            self._sizes[key] = storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int) -> None:
        self._watches.pop(key, None)
        self.now -= self._sizes.pop(key, 0)
