"""Send batches to an accelerator on a stream of their own, while it computes the batch before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

AHEAD = 2  # batches on the device beside the one that was sent last: one that is computed, one that waits


class Event(Protocol):
    """A mark in what the device was asked to do."""

    def synchronize(self) -> None:
        """Wait until the device is there."""
        ...


class Lane(Protocol):
    """A way to a device beside that of its computations: `CudaLane`, or an imitation in tests."""

    def takes(self, tensor: Tensor) -> bool:
        """Is it to go this way?"""
        ...

    def is_pinned(self, tensor: Tensor) -> bool:
        """Is it in memory that the device reads by itself?"""
        ...

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in such memory, whole when this returns."""
        ...

    def send(self, tensor: Tensor) -> Tensor:
        """A tensor on the device, into which a pinned one is being copied from now on."""
        ...

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        """Let computations wait for what was sent, and own it; the host waits for nothing."""
        ...

    def reached(self) -> Event:
        """A mark behind all computations that were asked for so far."""
        ...


@dataclass
class Sent:
    """A batch that may still be on its way."""

    begin: Event  #: where computations were when it was sent
    #: pinned tensors of the loader's, by address: kept, so that no other gets this memory; and their versions
    sources: dict[int, tuple[Tensor, int]] = field(default_factory=dict)


class Prefetch:
    """Places batches by a lane.

    The loop asks the device for a batch's computations and does not wait for them, so it fetches the next
    batch while they are under way; this one is copied at once, and not behind them. The order in which
    batches are fetched is that of the loop, and no batch is fetched that is not asked for: stopping, cancels,
    errors and resuming are what they are without. So that batches do not pile up on the device, the host
    waits where it is more than two batches ahead of it.

    Args:
        lane: the way to the device.
    """

    def __init__(self, lane: Lane):
        self.lane = lane
        self._sent: deque[Sent] = deque(maxlen=AHEAD)

    def place(
        self, batch: Any, fresh: bool, move: Callable[[Any, Callable[[Any], Any]], Any], last: Any
    ) -> Any:
        """The batch on the device.

        Args:
            batch: a nest of tensors, as `DevicePlacement` takes it.
            fresh: does the loader give pinned tensors that it does not fill again? Others are copied first.
            move: `map_tensors`.
            last: what to do with a leaf that does not go by the lane.

        Raises:
            ValueError: the loader fills pinned memory again while it is on its way.
        """
        if len(self._sent) == AHEAD:
            self._sent[0].begin.synchronize()  # meant: it takes time only where the host is far ahead
        sent = Sent(self.lane.reached())
        made: list[Tensor] = []

        def send(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not self.lane.takes(leaf):
                return last(leaf)
            made.append(self.lane.send(self._source(leaf, fresh, sent)))
            return made[-1]

        placed = move(batch, send)
        self.lane.hand_over(made)
        self._sent.append(sent)
        return placed

    def _source(self, tensor: Tensor, fresh: bool, sent: Sent) -> Tensor:
        """The tensor to copy from: nobody writes into it until it has been copied."""
        if not (fresh and self.lane.is_pinned(tensor)):
            return self.lane.pin(tensor)
        address = tensor.untyped_storage().data_ptr()
        for other in self._sent:
            kept, version = other.sources.get(address, (None, 0))
            if kept is not None and kept._version != version:
                raise ValueError(TORN)
            if kept is not None:  # the same items again, as far as can be told
                return self.lane.pin(tensor)
        sent.sources[address] = (tensor, tensor._version)
        return tensor


TORN = (
    "DevicePlacement(prefetch=True): the DataLoader has filled the pinned memory of one batch with another "
    "while the first was on its way to the device, so what was computed may be of both. Let collate_fn "
    "return new tensors, as buffer.clone(), or leave pin_memory=True out: other memory is copied first."
)


class CudaLane:
    """A stream of CUDA's beside the current one.

    Args:
        device: with its index.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)

    def takes(self, tensor: Tensor) -> bool:
        plain = tensor.layout is torch.strided and not tensor.requires_grad and not tensor.is_quantized
        return type(tensor) is Tensor and tensor.device.type == "cpu" and plain

    def is_pinned(self, tensor: Tensor) -> bool:
        return tensor.is_pinned()

    def pin(self, tensor: Tensor) -> Tensor:
        # torch keeps pinned memory and gives it out again, after the copies from it are done
        return torch.empty_like(tensor, pin_memory=True).copy_(tensor)

    def send(self, tensor: Tensor) -> Tensor:
        with torch.cuda.stream(self.stream):
            return tensor.to(self.device, non_blocking=True)

    def hand_over(self, tensors: Sequence[Tensor]) -> None:
        compute = torch.cuda.current_stream(self.device)
        compute.wait_stream(self.stream)
        for tensor in tensors:  # else their memory would be the lane's again while it is computed with
            tensor.record_stream(compute)

    def reached(self) -> Event:
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self.device))
        return event


def lane_to(device: torch.device) -> Lane | None:
    """The lane to a device; None where there is none, and batches are placed as without."""
    return CudaLane(device) if device.type == "cuda" else None
