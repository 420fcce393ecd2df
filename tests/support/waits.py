"""An imitated device that counts reads of numbers (which code waits, where, how often), and CUDA's check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from callbacks import DevicePlacement
from learner import Learner

aten = torch.ops.aten
NEW = {"tensor", "as_tensor", "asarray", "from_numpy", "new_tensor"}  # these copy from the CPU, and block


class Waits:
    """Counts the waits for a device while it is entered, with the meta device for one.

    A wait is what CUDA waits for: reading a number (`item`, `float`, `bool`, `tolist`, `equal`, printing), a
    copy from the device, and a copy to it that is not `non_blocking`. The device holds no values, so a number
    that is read is 1. What else needs values there, as `nonzero`, is torch's own error.

    found: what waited, in order, as (in a batch?, what).
    """

    def __init__(self):
        self.found: list[tuple[bool, str]] = []
        self.in_batch = False

    @contextmanager
    def counted(self) -> Iterator[None]:
        with Functions(self), Kernels(self):
            yield

    def note(self, what: str) -> None:
        self.found.append((self.in_batch, what))

    @property
    def in_batches(self) -> list[str]:
        return [what for in_batch, what in self.found if in_batch]


class Kernels(TorchDispatchMode):
    """Sees what reaches torch's kernels, whoever called them."""

    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name, first = func.overloadpacket, args[0] if args else None
        if name is aten._local_scalar_dense and first.is_meta:
            self.waits.note("item")
            return torch.ones((), dtype=first.dtype).tolist()
        if name is aten.equal and first.is_meta:
            self.waits.note("equal")
            return True
        if name is aten._to_copy and first.is_meta and on_cpu(kwargs.get("device")):
            self.waits.note("copy from the device")
            return torch.ones(first.shape, dtype=kwargs.get("dtype") or first.dtype)
        if name is aten._to_copy and first.is_cpu and on_meta(kwargs.get("device")):
            self.note_unless_free(first, "copy to the device", kwargs.get("non_blocking"))
        if name is aten.copy_ and first.is_meta is not args[1].is_meta:
            self.note_unless_free(args[1], "copy_", args[2] if args[2:] else kwargs.get("non_blocking"))
            return first
        return func(*args, **kwargs)

    def note_unless_free(self, source: Tensor, what: str, non_blocking: Any) -> None:
        if source.is_meta or not non_blocking:  # what comes from the device is read, so must be there
            self.waits.note(what)


class Functions(TorchFunctionMode):
    """Sees what the meta device does without a kernel: new tensors of Python's numbers, and printing."""

    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        is_new = name in NEW and isinstance(found, Tensor) and found.is_meta and found is not args[0]
        is_shown = name in ("__repr__", "__format__") and args[0].is_meta
        is_index = name in ("__getitem__", "__setitem__") and args[0].is_meta and has_values(args[1])
        if is_new or is_shown or is_index:
            self.waits.note(name)
        return found


def has_values(index: Any) -> bool:
    """Does it index by numbers that are on the CPU, which go to the device first?"""
    parts = index if type(index) is tuple else (index,)
    return any(isinstance(part, list) or (isinstance(part, Tensor) and part.is_cpu) for part in parts)


def on_cpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cpu"


def on_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type == "meta"


def count_waits(learn: Learner, waits: Waits) -> None:
    """Fit one epoch on the pretend device, and count."""
    if DevicePlacement not in learn.callbacks:
        learn.add_callbacks(DevicePlacement("meta"))
    learn.callbacks[DevicePlacement].device = torch.device("meta")
    one_batch = learn.loop.run_batch

    def batch(learn: Learner) -> None:
        outside, waits.in_batch = waits.in_batch, True
        try:
            one_batch(learn)
        finally:
            waits.in_batch = outside

    learn.loop.run_batch = batch  # type: ignore[method-assign]
    with waits.counted():
        learn.fit(1)


def fit_strictly(learn: Learner, set_mode: Callable[[str], object]) -> None:
    """Fit two epochs; in the batches of the second, torch raises at each wait for a CUDA device."""
    one_batch = learn.loop.run_batch

    def batch(learn: Learner) -> None:
        set_mode("error" if learn.epoch else "default")
        try:
            one_batch(learn)
        finally:
            set_mode("default")

    learn.loop.run_batch = batch  # type: ignore[method-assign]
    learn.fit(2)
