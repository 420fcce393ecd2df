"""Batches of tensors and arrays by indexing, in an order that depends only on seed and epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from learner.data.stored import Stored
from learner.data.tensors import Column, as_columns, check_batch_size, check_seed, describe, is_whole
from learner.messages.keywords import suggest_keywords

BLOCK_BYTES = 1 << 20  # a disk reads this nearly as fast as one long piece
SPARSE = 4  # rows are read one by one if they are spread over so many times their number of items

Batch = tuple[Tensor, ...]
Span = tuple[int, int]


@dataclass(frozen=True)
class Blocks:
    """A shuffled order for data on a disk that reads neighbouring items together.

    The file is divided into blocks of neighbouring items, and the blocks are shuffled. A window of `window`
    blocks at a time is read into memory, each block in one piece; the items of a window are shuffled and
    divided into batches. Each item comes once per epoch, at any position. But items of one block are always
    within one window, and a batch has items of only `window` places of the file. If neighbours are similar,
    as in a file sorted by class, the content of a batch varies about as much as if it had `window` items.
    Shuffle such a file when you write it, or use more and smaller blocks.

    Args:
        size: items per block; by default as many as fit into 1 MiB.
        window: blocks that are read together; all their items, `size * window`, are in memory.

    Raises:
        ValueError: a value is not a whole number of 1 or more.
    """

    size: int | None = None
    window: int = 64

    def __post_init__(self) -> None:
        for name in ("size", "window"):
            value = getattr(self, name)
            if not (is_whole(value) and value >= 1) and not (name == "size" and value is None):
                raise ValueError(f"Blocks({name}={value!r}): pass a whole number, 1 or more.")


Order = Literal["items", "blocks"] | Blocks


class TensorLoader:
    """Batches of tensors or arrays of one length, by indexing.

    The order of epoch e depends only on the seed and e. `state_dict` returns the position, and
    `load_state_dict` continues there. Memory-mapped and read-only NumPy arrays are copied batch by batch,
    never as a whole.

    Args:
        tensors: tensors of shape (items, ...) on any device, in a sequence, or in a mapping by name, which
            makes each batch a dict. Arrays in memory are converted to tensors.
        batch_size: items per batch; the last may have fewer.
        shuffle: use a new order each epoch.
        drop_last: leave out a smaller last batch.
        seed: for the order; by default drawn from torch's random state.
        order: what is shuffled: `"items"`, or for data on a disk `"blocks"` of neighbours (see `Blocks`).
        rows: the indices of the items to use, ascending for arrays on a disk; by default all.

    Raises:
        TypeError, ValueError: something is not a tensor or array, or the numbers or the order do not fit.
        OSError: at the start of a pass or when a batch is read, a mapped file is shorter than before.
    """

    @suggest_keywords
    def __init__(
        self,
        tensors: Sequence[Any] | Mapping[str, Any],
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
        order: Order = "items",
        rows: Tensor | None = None,
    ):
        found = as_columns(tensors)
        self.columns: tuple[Column, ...] = found.tensors
        self.keys: tuple[str, ...] | None = found.keys
        self.rows: Tensor | None = rows
        self.devices: set[torch.device] = {column.device for column in self.columns}
        self.n_items: int = len(self.columns[0]) if rows is None else len(rows)
        self.batch_size: int = check_batch_size(batch_size)
        self.shuffle: bool = shuffle
        self.drop_last: bool = drop_last
        self.blocks: Blocks | None = check_order(order, shuffle, self.columns)
        self.seed: int = check_seed(seed) if shuffle else 0
        self.seed_was_given: bool = shuffle and seed is not None
        self.epoch: int = 0

    @property
    def tensors(self) -> tuple[Column, ...]:
        """The tensors of the items: a copy if `rows` are some; all if arrays are read batch by batch."""
        if self.rows is None or any(isinstance(column, Stored) for column in self.columns):
            return self.columns
        return tuple([column.index_select(0, self.rows.to(column.device)) for column in self.columns])

    def __len__(self) -> int:
        return self.n_items // self.batch_size if self.drop_last else -(-self.n_items // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self.from_batch(0)

    def from_batch(self, first: int, spans: Iterable[Span] | None = None) -> Iterator[Any]:
        """The batches of an epoch from batch `first` on, counted from 0; earlier ones are not read.

        Args:
            first: the index of the first batch.
            spans: the range of each batch in the order of the epoch, ascending, instead of whole batches.
        """
        for column in self.columns:
            if isinstance(column, Stored):
                column.check()
        epoch, self.epoch = self.epoch, self.epoch + 1
        spans = self.spans(first) if spans is None else spans
        by_items, blocks = self._by_items, self.blocks
        for batch in self._by_blocks(blocks, epoch, spans) if blocks else by_items(self.order(epoch), spans):
            yield batch if self.keys is None else dict(zip(self.keys, batch, strict=True))

    def spans(self, first: int = 0) -> Iterator[Span]:
        """The range `(start, stop)` of each batch in the order of an epoch, from batch `first` on."""
        size, n_used = self.batch_size, min(len(self) * self.batch_size, self.n_items)
        return ((start, min(start + size, n_used)) for start in range(first * size, n_used, size))

    def order(self, epoch: int) -> Tensor | None:
        """The indices of the items in the order of an epoch; None for their own order."""
        if not self.shuffle:
            return self.rows
        if self.blocks is not None:
            windows = Windows(self.blocks, self.n_items, self.draws_of(epoch))
            order = torch.cat([windows.numbers(n)[windows.order(n)] for n in range(len(windows))])
        else:
            order = torch.randperm(self.n_items, generator=self.draws_of(epoch))
        return order if self.rows is None else self.rows[order]

    def draws_of(self, epoch: int) -> torch.Generator:
        """A generator for each epoch, so that its order does not need those of earlier epochs."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)

    def _by_items(self, order: Tensor | None, spans: Iterable[Span]) -> Iterator[Batch]:
        if order is None:
            for start, stop in spans:
                yield tuple([column[start:stop] for column in self.columns])
            return
        orders = {device: order.to(device) for device in self.devices}  # once per epoch
        sources = [(column, orders[column.device]) for column in self.columns]
        for start, stop in spans:
            yield tuple([column.index_select(0, order[start:stop]) for column, order in sources])

    def _by_blocks(self, blocks: Blocks, epoch: int, spans: Iterable[Span]) -> Iterator[Batch]:
        """Batches from one window after the other; a batch may span two windows."""
        windows = Windows(blocks, self.n_items, self.draws_of(epoch))
        buffers = self._buffers(min(windows.size * windows.window, self.n_items))
        sources: list[tuple[Tensor, Tensor]] = []
        number, begin, end = -1, 0, 0  # of the current window
        for start, stop in spans:
            parts: list[Batch] = []
            while start < stop:
                while start >= end:
                    number, begin, sources = number + 1, end, []
                    end += windows.n_of(number)
                sources = sources or self._read(windows, number, buffers)
                taken = slice(start - begin, min(stop, end) - begin)
                parts.append(tuple([source.index_select(0, rows[taken]) for source, rows in sources]))
                start = min(stop, end)
            yield joined(parts)

    def _read(self, windows: Windows, number: int, buffers: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each column a tensor that contains the items, and their numbers in the order of the window."""
        numbers, order = windows.numbers(number), windows.order(number)
        rows = (numbers if self.rows is None else self.rows[numbers])[order]
        there = {device: rows.to(device) for device in self.devices}  # once per window
        spans = windows.spans(number)
        sources: list[tuple[Tensor, Tensor]] = []
        for column, buffer in zip(self.columns, buffers, strict=True):
            if isinstance(column, Stored):
                self._read_spans(column, spans, buffer)
                sources.append((buffer, order))
            else:
                sources.append((column, there[column.device]))
        return sources

    def _buffers(self, n_items: int) -> list[Tensor]:
        """Buffers for the stored items of a window, allocated once per pass because this is slow."""
        return [
            torch.empty((n_items * isinstance(column, Stored), *column.shape[1:]), dtype=column.dtype)
            for column in self.columns
        ]

    def _read_spans(self, column: Stored, spans: list[tuple[int, int]], buffer: Tensor) -> None:
        at = 0
        for start, stop in spans:
            part = buffer[at : at + stop - start]
            if self.rows is None:
                column.read_into(part, start)
            else:
                part.copy_(self._read_rows(column, self.rows[start:stop]))
            at += stop - start

    def _read_rows(self, column: Stored, rows: Tensor) -> Tensor:
        first, last = int(rows[0]), int(rows[-1])
        if last - first >= SPARSE * len(rows):
            return column.index_select(0, rows)
        return column[first : last + 1].index_select(0, rows - first)

    def state_dict(self) -> dict[str, int]:
        """The seed, and the number of epochs that have started."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position of `state_dict`."""
        self.seed, self.epoch = state["seed"], state["epoch"]

    def __repr__(self) -> str:
        shown = [
            column if isinstance(column, Stored) else column[:1].expand(self.n_items, *column.shape[1:])
            for column in self.columns
        ]
        held = tuple(shown) if self.keys is None else dict(zip(self.keys, shown, strict=True))
        return f"TensorLoader({describe(held)}, batch_size={self.batch_size}, shuffle={self.shuffle})"


class Windows:
    """The shuffled blocks of an epoch, in windows.

    Args:
        blocks: the size of a block and of a window.
        n_items: the number of all items.
        generator: of this epoch; it determines the whole order.
    """

    def __init__(self, blocks: Blocks, n_items: int, generator: torch.Generator):
        assert blocks.size is not None  # `check_order` has set it
        self.size, self.window, self.n_items = blocks.size, blocks.window, n_items
        self.shuffled = torch.randperm(-(-n_items // self.size), generator=generator)
        self.seeds = torch.randint(2**62, (len(self),), generator=generator)

    def __len__(self) -> int:
        return -(-len(self.shuffled) // self.window)

    def spans(self, number: int) -> list[tuple[int, int]]:
        """The range `(start, stop)` of the items of each block in a window, ascending as on the disk."""
        found = sorted(self.shuffled[number * self.window : (number + 1) * self.window].tolist())
        return [(block * self.size, min((block + 1) * self.size, self.n_items)) for block in found]

    def numbers(self, number: int) -> Tensor:
        """The items of a window, block by block."""
        return torch.cat([torch.arange(*span) for span in self.spans(number)])

    def order(self, number: int) -> Tensor:
        """The shuffled order of the items of a window."""
        generator = torch.Generator().manual_seed(int(self.seeds[number]))
        return torch.randperm(self.n_of(number), generator=generator)

    def n_of(self, number: int) -> int:
        """The number of items in a window; the last block of the file may be smaller."""
        return sum(stop - start for start, stop in self.spans(number))


def joined(parts: list[Batch]) -> Batch:
    """Join the parts of a batch."""
    return parts[0] if len(parts) == 1 else tuple([torch.cat(each) for each in zip(*parts, strict=True)])


def check_order(order: Order, shuffle: bool, columns: Sequence[Column]) -> Blocks | None:
    """The blocks of an order, with their size; None if items are shuffled one by one.

    Raises:
        ValueError: the order is unknown, or nothing is shuffled.
    """
    if order == "items":
        return None
    if order != "blocks" and not isinstance(order, Blocks):
        raise ValueError(
            f"order={order!r}: choose 'items', 'blocks' or Blocks(size, window), as in "
            "order=Blocks(256, window=32)."
        )
    if not shuffle:
        raise ValueError(
            f"order={order!r} is a shuffled order, but shuffle=False: leave one of them out. Without "
            "shuffling, items are read in their own order, which is fast on a disk too."
        )
    blocks = Blocks() if order == "blocks" else order
    stored = [column for column in columns if isinstance(column, Stored)] or columns
    n_bytes = sum(column.shape[1:].numel() * column.dtype.itemsize for column in stored)
    return Blocks(blocks.size or max(1, BLOCK_BYTES // max(1, n_bytes)), blocks.window)
