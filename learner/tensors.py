"""Tensors in memory: check them, split them, and batch them by indexing them whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


class TensorLoader:
    """Batches of tensors of one length, by indexing them whole.

    The order of epoch e depends on the seed and e alone. `state_dict` tells where it is, `load_state_dict`
    goes there.

    Args:
        tensors: each of shape (items, ...), on any device; arrays become tensors.
        batch_size: items a batch; the last may have fewer.
        shuffle: new order each epoch.
        drop_last: leave out a last batch that is smaller.
        seed: of the order; by default drawn from torch's random state.
    """

    def __init__(
        self,
        tensors: Sequence[Any],
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int | None = None,
    ):
        self.tensors, _ = as_tensors(tensors)
        self.n_items, self.batch_size = len(self.tensors[0]), check_batch_size(batch_size)
        self.shuffle, self.drop_last = shuffle, drop_last
        self.seed = check_seed(seed) if shuffle else 0
        self.seed_was_given = shuffle and seed is not None
        self.epoch = 0

    def __len__(self) -> int:
        return self.n_items // self.batch_size if self.drop_last else -(-self.n_items // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return self.from_batch(0)

    def from_batch(self, first: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of an epoch from one on, counted from 0; those before it are not touched."""
        order = self.order(self.epoch)
        self.epoch += 1
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        if order is None:
            for start in starts:
                yield tuple([tensor[start : start + self.batch_size] for tensor in self.tensors])
            return
        orders = {tensor.device: order.to(tensor.device) for tensor in self.tensors}  # once an epoch
        rows = [(tensor, orders[tensor.device]) for tensor in self.tensors]
        for start in starts:
            end = start + self.batch_size
            yield tuple([tensor.index_select(0, order[start:end]) for tensor, order in rows])

    def order(self, epoch: int) -> Tensor | None:
        """The items' numbers in the order of an epoch, or None where they come as they stand."""
        if not self.shuffle:
            return None
        # one generator an epoch, so that an epoch's order can be had without the ones before it
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.n_items, generator=generator)

    def state_dict(self) -> dict[str, int]:
        """Seed, and how many epochs were begun."""
        return {"seed": self.seed, "epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was."""
        self.seed, self.epoch = state["seed"], state["epoch"]

    def __repr__(self) -> str:
        return f"TensorLoader({describe(self.tensors)}, batch_size={self.batch_size}, shuffle={self.shuffle})"


def as_tensors(inputs: Any, targets: Any = None) -> tuple[tuple[Tensor, ...], int]:
    """Inputs and targets as tensors in a row, and how many of them are inputs.

    Raises:
        TypeError, ValueError: something is no tensor or array, has no items, or another number of items.
    """
    several = isinstance(inputs, (tuple, list)), isinstance(targets, (tuple, list))
    first = inputs if several[0] else (inputs,)
    second = () if targets is None else targets if several[1] else (targets,)
    tensors = [as_tensor(item, f"inputs[{n}]" if several[0] else "inputs") for n, item in enumerate(first)]
    tensors += [
        as_tensor(item, f"targets[{n}]" if several[1] else "targets") for n, item in enumerate(second)
    ]
    lengths = [len(tensor) for tensor in tensors]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the tensors have {' and '.join(map(str, lengths))} items ({describe(tuple(tensors))}): give "
            "each the same number, one a row. A list of single items is one tensor by torch.stack(list)."
        )
    if not sum(lengths):
        raise ValueError(f"there are no items: inputs are {describe(inputs)}.")
    return tuple(tensors), len(first)


def as_tensor(item: Any, name: str) -> Tensor:
    """A tensor of it, sharing memory where it can; float64 of NumPy becomes torch's default dtype."""
    if isinstance(item, Tensor):
        tensor = item.detach() if item.requires_grad else item  # its graph would outlive the first step
    elif is_array(item):
        tensor = from_array(item, name)
    else:
        raise TypeError(
            f"{name} is {describe(item)}, which is no tensor or array: pass a tensor of shape (items, ...), "
            f"as torch.tensor({name.split('[')[0]}); a list or tuple holds several such tensors, and a data "
            "set goes to Data.from_datasets."
        )
    if tensor.ndim == 0:
        raise ValueError(
            f"{name} is a tensor of no dimensions, so it has no items: give it the shape (items, ...)."
        )
    return tensor


def from_array(item: Any, name: str) -> Tensor:
    """A NumPy array, or a pandas table or column, as a tensor."""
    array = item.__array__()
    flags = getattr(array, "flags", None)
    if flags is not None and (not flags.writeable or any(stride < 0 for stride in array.strides)):
        array = array.copy()  # torch shares memory with neither
    try:
        tensor = torch.as_tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is {describe(item)}, which torch cannot take ({error}): pass numbers, as with "
            f"{name}.astype('float32')."
        ) from None
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor


def is_array(item: Any) -> bool:
    """A tensor, or a NumPy array, pandas table or column that can become one."""
    return isinstance(item, Tensor) or (
        hasattr(item, "__array__") and hasattr(item, "shape") and not isinstance(item, type)
    )


def split_at_random(
    tensors: tuple[Tensor, ...], valid: float | None, seed: int
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Hold out a share, or a number, of the items.

    Raises:
        ValueError: that leaves no items to train or to validate on.
    """
    if valid is None:
        return tensors, None
    n_items, n_valid = len(tensors[0]), 0
    if is_whole(valid):
        n_valid = int(valid)
    elif isinstance(valid, Real) and 0 < valid < 1:
        n_valid = round(n_items * float(valid))
    if not 0 < n_valid < n_items:
        raise ValueError(
            f"valid={valid!r} cannot be held out of {counted(n_items, 'item', 'items')}: write a share "
            "between 0 and 1 or a number of items that leaves at least one on either side, a pair (inputs, "
            "targets), or None for no validation."
        )
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))
    kept, held_out = order[n_valid:], order[:n_valid]
    return tuple(tensor[kept.to(tensor.device)] for tensor in tensors), tuple(
        tensor[held_out.to(tensor.device)] for tensor in tensors
    )


def check_batch_size(batch_size: Any) -> int:
    """A whole number, 1 or more."""
    if not is_whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: write a whole number of items, 1 or more.")
    return int(batch_size)


def is_whole(value: Any) -> bool:
    """An int, also NumPy's; not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def draw_seed() -> int:
    """A seed from torch's random state, as `DataLoader` draws its own."""
    return int(torch.randint(2**31, ()).item())


def check_seed(seed: Any) -> int:
    """The seed, or one drawn where there is none."""
    if seed is None:
        return draw_seed()
    if not is_whole(seed) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: write a whole number from 0 on, or None to draw one.")
    return int(seed)


def counted(number: int, one: str, many: str) -> str:
    """`1 batch`, `2 batches`."""
    return f"{number:,} {one if number == 1 else many}"


def describe(item: Any, depth: int = 1) -> str:
    """What something is, as messages tell it: type, length, keys, shapes, to some depth."""
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)} and {item.dtype}"
    if is_array(item):
        return f"a {type(item).__name__} of shape {tuple(item.shape)}"
    if isinstance(item, Mapping):
        return f"a {type(item).__name__} with the keys {', '.join(map(repr, list(item)[:8])) or '(none)'}"
    if isinstance(item, (tuple, list)):
        parts = ", ".join(describe(part, depth - 1) for part in item[:4])
        inside = f" ({parts}{', ...' if len(item) > 4 else ''})" if depth else ""
        return f"a {type(item).__name__} of {len(item)}{inside}"
    if item is None or isinstance(item, (str, int, float)):
        return repr(item) if len(repr(item)) < 60 else f"{repr(item)[:57]}..."
    if isinstance(item, type):
        return f"the class {item.__name__}"
    return f"a {type(item).__name__}"
