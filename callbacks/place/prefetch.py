"""Copy batches to an accelerator while it computes the previous batch, and results from it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

AHEAD = 2  # batches on the device before the last one: one is computed, one waits


@dataclass
class Sent:
    """A batch that may still be copied."""

    begin: torch.cuda.Event  #: the mark of the computations when the copy started
    #: pinned tensors of the loader by address, kept so that nothing else gets their memory; and their
    #: versions
    sources: dict[int, tuple[Tensor, int]] = field(default_factory=dict)


class Prefetch:
    """Places batches through a lane.

    The loop queues the computations of a batch and does not wait for them. It fetches the next batch while
    they run, and this batch is copied at once, not after them. Batches are fetched in the order of the loop,
    and none is fetched in advance, so stopping, cancels, errors and resuming are the same as without. To
    limit the number of batches on the device, the host waits if it is more than two batches ahead.
    """

    def __init__(self, lane: CudaLane):
        self.lane = lane
        self._sent: deque[Sent] = deque(maxlen=AHEAD)

    def place(
        self, batch: Any, fresh: bool, move: Callable[[Any, Callable[[Any], Any]], Any], last: Any
    ) -> Any:
        """The batch on the device.

        Pinned tensors that are not `fresh`, as the loader uses them again, are copied first. `move` is
        `map_tensors`; `last` is called with a leaf that does not use the lane.
        """
        sent: Sent | None = None
        made: list[Tensor] = []

        def send(leaf: Any) -> Any:
            nonlocal sent
            if not isinstance(leaf, Tensor) or not self.lane.takes(leaf):
                return last(leaf)
            sent = sent or self._begin()
            made.append(self.lane.send(self._source(leaf, fresh, sent)))
            return made[-1]

        placed = move(batch, send)
        if sent is not None:  # otherwise all of it is on the device already
            self.lane.hand_over(made)
            self._sent.append(sent)
        return placed

    def _begin(self) -> Sent:
        """Start to send a batch."""
        if len(self._sent) == AHEAD:
            self._sent[0].begin.synchronize()  # an intended wait: it takes time only if the host is far ahead
        return Sent(self.lane.reached())

    def _source(self, tensor: Tensor, fresh: bool, sent: Sent) -> Tensor:
        """The tensor to copy from; nobody writes to it until it has been copied."""
        if not (fresh and self.lane.is_pinned(tensor)):
            return self.lane.pin(tensor)
        address = tensor.untyped_storage().data_ptr()
        for other in self._sent:
            kept, version = other.sources.get(address, (None, 0))
            if kept is not None and kept._version != version:
                raise ValueError(TORN)
            if kept is not None:  # the same items again, apparently
                return self.lane.pin(tensor)
        sent.sources[address] = (tensor, tensor._version)
        return tensor


TORN = (
    "DevicePlacement: the DataLoader has overwritten the pinned memory of one batch with another while "
    "the first was copied to the device, so the results may mix both. Let collate_fn return new tensors, "
    "such as buffer.clone(), or omit pin_memory=True: memory that is not pinned is copied first."
)


class CudaLane:
    """A CUDA stream beside that of the computations."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def takes(self, tensor: Tensor) -> bool:
        """Does this tensor use the lane?"""
        plain = tensor.layout is torch.strided and not tensor.requires_grad and not tensor.is_quantized
        return type(tensor) is Tensor and tensor.device.type == "cpu" and plain

    def is_pinned(self, tensor: Tensor) -> bool:
        """Is it in memory that the device can read directly?"""
        return tensor.is_pinned()

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in such memory, complete when this returns."""
        # torch caches pinned memory and reuses it after the copies from it are done
        return torch.empty_like(tensor, pin_memory=True).copy_(tensor)

    def send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, with a copy of the pinned tensor under way."""
        with torch.cuda.stream(self.stream):
            return tensor.to(self.device, non_blocking=True)

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        """Make computations wait for these tensors and own them; the host does not wait."""
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self.stream)
        for tensor in tensors:  # otherwise the lane could reuse their memory while they are used
            tensor.record_stream(compute)

    def reached(self) -> torch.cuda.Event:
        """A mark after all computations that were queued so far."""
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def lane_to(device: torch.device) -> CudaLane | None:
    """The lane to a device; None if the device has none."""
    return CudaLane(device) if device.type == "cuda" else None


def is_on_cuda(tensor: Tensor) -> bool:
    """Is it on a device from which an `Arrival` copies?"""
    return tensor.is_cuda


class Arrival:
    """A copy of a tensor from a CUDA device to pinned memory, for which only `wait` waits."""

    def __init__(self, tensor: Tensor):
        tensor = tensor.detach().resolve_conj().resolve_neg()  # otherwise the host would do that too early
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._copy.copy_(tensor, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The copy, when it is complete."""
        self._event.synchronize()
        return self._copy
