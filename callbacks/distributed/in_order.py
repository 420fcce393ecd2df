"""Sums over all processes in the order of the ranks, with the bits of one process that adds them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

JOINED_BYTES = 1 << 23  # of gradients that are added in order together


class InOrder:
    """A communication hook of `DistributedDataParallel` that adds gradients in the order of the ranks.

    Small buckets wait for the next one, because most of the time of a sum is its start. Large ones are sent
    while the backward pass continues.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._waiting: list[tuple[Tensor, torch.futures.Future[Tensor]]] = []
        self._sums: list[Iterator[None]] = []

    def add(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """The sum of a bucket over all ranks, which is complete after the last bucket at the latest."""
        if bucket.index() == 0:  # an error may have ended the last backward pass
            self._forget()
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        if self._waiting and self._waiting[0][0].dtype != bucket.buffer().dtype:
            self._send()
        self._waiting.append((bucket.buffer(), done))
        if bucket.is_last() or sum(each.nbytes for each, _ in self._waiting) >= JOINED_BYTES:
            self._send()
        while bucket.is_last() and self._sums:
            self._advance()
        return done

    def _send(self) -> None:
        """Start the sum of the buckets that wait."""
        self._sums.append(self._sum(self._waiting))
        self._waiting = []
        self._advance()

    def _advance(self) -> None:
        """Take the next step of each sum, in the same order on all ranks."""
        self._sums = [each for each in self._sums if next(each, self) is None]

    def _sum(self, waiting: list[tuple[Tensor, torch.futures.Future[Tensor]]]) -> Iterator[None]:
        buckets = [each for each, _ in waiting]
        total = yield from steps_in_order(torch.cat(buckets) if len(buckets) > 1 else buckets[0])
        for part, (_, done) in zip(total.split([each.numel() for each in buckets]), waiting, strict=True):
            done.set_result(part)


def sum_in_order(flat: Tensor) -> Tensor:
    """The sum over all ranks, in the order of ranks, with the bits of `((a + b) + c) + ...`."""
    steps = steps_in_order(flat)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def steps_in_order(flat: Tensor) -> Generator[None, None, Tensor]:
    """Add a tensor over all ranks in their order, and yield while something is being sent.

    Each rank adds one part of the tensor, so as much is sent as in a ring all-reduce.
    """
    size = dist.get_world_size()
    n_more = -flat.numel() % size
    sent = torch.cat([flat, flat.new_zeros(n_more)]) if n_more else flat
    parts = torch.empty_like(sent)
    work: Any = dist.all_to_all_single(parts, sent, async_op=True)
    yield
    work.wait()
    first, *others = parts.view(size, -1)
    for each in others:
        first += each
    joined = torch.empty_like(sent)
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # until PyTorch 2.12
    work = gather(joined, first, async_op=True)
    yield
    work.wait()
    return joined[: flat.numel()]
