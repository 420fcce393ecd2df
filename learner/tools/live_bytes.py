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
    """Tensors use more bytes than the limit: `held`."""

    def __init__(self, message: str, held: int):
        super().__init__(message)
        self.held = held


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all tensors that are created within the block, on any device, until each is freed.

    Tensors from before the block are not counted, except `held`. Views and shared memory are counted once.
    Not counted: buffers that a kernel allocates for itself, as a convolution does, tensors inside compiled
    code, and memory that an allocator keeps.

    Args:
        held: existing tensors to count too, such as a model's weights.
        limit: most bytes that tensors may use; None for no limit.

    Attributes:
        now: bytes in use.
        peak: most bytes in use so far.

    Raises:
        OverLimit: an operation has exceeded `limit`; its result is freed again.
    """

    def __init__(self, held: Iterable[Tensor] = (), *, limit: float | None = None):
        super().__init__()
        self.limit = limit
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}  # bytes of each storage, by its address
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
            words = f"after {func} tensors use {self.now:,} bytes of {self.limit:,.0f}."
            raise OverLimit(words, self.now)
        return found

    def _see(self, tensor: Tensor, *, is_new: bool) -> None:
        """Count a tensor's storage if it is new or has grown."""
        if tensor.layout is not torch.strided or is_lazy(tensor):
            return
        storage = tensor.untyped_storage()
        if storage.device.type == "meta":  # of torch.compile's tracing; it has no bytes
            return
        key = storage._cdata  # not id(), which a later object may have again
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
