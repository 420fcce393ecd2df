"""Tensors and arrays: check, convert, split and describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from callbacks.core.draws import draw_seed
from callbacks.core.output import with_article
from learner.data.stored import Stored, signed

Column = Tensor | Stored
Made = TypeVar("Made")


class Columns(NamedTuple):
    """Inputs and targets as one sequence of columns."""

    tensors: tuple[Column, ...]
    n_inputs: int
    keys: tuple[str, ...] | None  #: their names, if they were passed by name
    target_keys: tuple[str, ...] = ()

    @property
    def original(self) -> tuple[Column, ...] | dict[str, Column]:
        """The columns in their original form: a mapping by name or a tuple."""
        return self.tensors if self.keys is None else dict(zip(self.keys, self.tensors, strict=True))


def as_tensors(inputs: Any, targets: Any = None) -> tuple[tuple[Tensor, ...], int]:
    """Convert inputs and targets to one tuple of tensors; stored arrays are read as a whole.

    Returns:
        The tensors, and the number of inputs among them.

    Raises:
        TypeError, ValueError: something is not a tensor or array, is empty, or has another number of items.
    """
    found = as_columns(inputs, targets)
    whole = [column if isinstance(column, Tensor) else column[:] for column in found.tensors]
    return tuple(whole), found.n_inputs


def as_columns(inputs: Any, targets: Any = None) -> Columns:
    """Convert inputs and targets to columns: tensors, or `Stored` arrays that are read batch by batch.

    Args:
        inputs: a tensor or array, several of them, or a mapping of them.
        targets: a tensor or array, several of them, or None; with a mapping of inputs also a mapping, or the
            keys of the inputs that are targets.

    Raises:
        TypeError, ValueError: something is not a tensor or array, is empty, or has another number of items.
    """
    if isinstance(inputs, Mapping):
        return check_lengths(named_columns(inputs, targets), inputs)
    if isinstance(targets, Mapping):
        raise TypeError(
            f"targets are {describe(targets)}, but inputs are {describe(inputs)}: pass both by name, as in "
            "from_tensors({'x': inputs}, {'y': targets}), or neither."
        )
    first, second = row_of(inputs, "inputs"), row_of(targets, "targets")
    tensors = tuple(as_column(item, name) for name, item in (*first, *second))
    return check_lengths(Columns(tensors, len(first), None), inputs)


def row_of(items: Any, name: str) -> list[tuple[str, Any]]:
    """One item or several, each with its name in messages."""
    if items is None and name == "targets":
        return []
    if isinstance(items, (tuple, list)):
        return [(f"{name}[{n}]", item) for n, item in enumerate(items)]
    return [(name, items)]


def named_columns(inputs: Mapping[str, Any], targets: Any) -> Columns:
    """Columns by name: those of the inputs, then those of the targets."""
    if isinstance(targets, str) or (
        isinstance(targets, (tuple, list)) and targets and all(isinstance(each, str) for each in targets)
    ):
        target_keys, added = (targets,) if isinstance(targets, str) else tuple(targets), {}
    else:
        added = dict(targets if isinstance(targets, Mapping) else row_of(targets, "targets"))
        target_keys = tuple(added)
    for key in target_keys:
        if (key in inputs) is (key in added):
            problem = "is a name of both" if key in added else "is not a key of the inputs"
            raise ValueError(
                f"targets: {key!r} {problem}, {describe(inputs)}: write from_tensors({{'x': ..., 'y': ...}}, "
                "'y'), or pass the targets as a mapping with other names."
            )
    if not inputs:
        raise ValueError("there are no items: inputs are an empty mapping. Pass at least one tensor by name.")
    both = {**inputs, **added}
    if not all(isinstance(key, str) for key in both):
        raise TypeError(
            f"inputs are {describe(inputs)}: use strings as keys, the names of the model's arguments."
        )
    tensors = tuple(
        as_column(item, f"inputs[{key!r}]" if key in inputs else key) for key, item in both.items()
    )
    return Columns(tensors, len(both) - len(target_keys), tuple(both), target_keys)


def check_lengths(found: Columns, inputs: Any) -> Columns:
    """Check that there are items, and as many in each column."""
    lengths = [len(tensor) for tensor in found.tensors]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the tensors have {' and '.join(map(str, lengths))} items ({describe(found.tensors)}): pass "
            "tensors with the same number of rows. Convert a list of single items with torch.stack(list)."
        )
    if not sum(lengths):
        raise ValueError(f"there are no items: inputs are {describe(inputs)}.")
    return found


def as_column(item: Any, name: str) -> Column:
    """Convert an item to a tensor, which shares its memory if possible, or to a `Stored` array.

    A float64 array gets torch's default dtype.
    """
    if isinstance(item, Stored):
        return item
    if isinstance(item, Tensor):
        check_dense(item, name)
        tensor = item.detach() if item.requires_grad else item  # the first step would free its graph
        dtype = in_words(item, name, lambda: signed(item.dtype))
        tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    elif is_array(item):
        tensor = from_array(item, name)
    else:
        raise TypeError(
            f"{name} is {describe(item)}, which is not a tensor or array: pass a tensor of shape (items, "
            f"...), such as torch.tensor({name.split('[')[0]}). Several tensors are one flat tuple, as in "
            "TensorLoader((first, second, targets), 64). Pass a data set to Data.from_datasets."
        )
    if tensor.ndim == 0:
        raise ValueError(
            f"{name} is a tensor without dimensions, so it has no items: its shape must be (items, ...)."
        )
    return tensor


def check_dense(item: Tensor, name: str) -> None:
    """Check that a tensor is dense.

    Raises:
        ValueError: it is sparse or nested; the message has a hint.
    """
    if item.layout is not torch.strided or item.is_nested:
        kind = "nested" if item.is_nested else "sparse"
        dense = "torch.nested.to_padded_tensor({}, 0.0)" if item.is_nested else "{}.to_dense()"
        raise ValueError(
            f"{name} is a {kind} tensor, which cannot be indexed in batches: pass {dense.format(name)}."
        )


def check_unmasked(item: Any, name: str) -> None:
    """Check that an array has no masked values.

    Raises:
        ValueError: it has some; the message has their number and a hint.
    """
    is_maskable = any(each.__name__ == "MaskedArray" for each in type(item).__mro__)
    n_masked = int(item.mask.sum()) if is_maskable else 0
    if n_masked:
        raise ValueError(
            f"{name} has {n_masked} masked numbers, and torch ignores the mask: "
            f"pass {name}.filled(0), with the mask as a further input, or leave these items out."
        )


def from_array(item: Any, name: str) -> Column:
    """Convert a NumPy array, or a pandas table or column.

    The result is a tensor that shares the memory if possible, a `Stored` array for a memory-mapped or
    read-only array, and otherwise a tensor with a copy.
    """
    check_unmasked(item, name)
    array: Any = item.__array__()
    if array.ndim == 0:
        return torch.empty(())
    stored = in_words(item, name, lambda: Stored(array))
    if stored.file is not None:
        return stored
    fits = array.dtype.isnative and stored.dtype == torch.as_tensor(array[:0].copy()).dtype
    if fits and not array.flags.writeable:
        return stored
    if fits and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides):
        return torch.as_tensor(array)
    return stored[:]


def in_words(item: Any, name: str, make: Callable[[], Made]) -> Made:
    """Call `make`; if torch does not support the dtype, raise an error that names the item, with a hint."""
    try:
        return make()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is {describe(item)}, which torch cannot convert ({error}): pass numbers, such as "
            f"{name}.astype('float32')."
        ) from None


def is_array(item: Any) -> bool:
    """Is this a tensor, or a NumPy array, pandas table or column, which can be converted to one?"""
    return isinstance(item, Tensor) or (
        hasattr(item, "__array__") and hasattr(item, "shape") and not isinstance(item, type)
    )


def draw_rows(n_items: int, shares: Mapping[str, float], seed: int) -> list[Tensor]:
    """Draw the numbers of the items for training, then those of each share or number to hold out, by name.

    Raises:
        ValueError: no item would be left for training or for one of them.
    """
    order = torch.randperm(n_items, generator=torch.Generator().manual_seed(seed))
    found: list[Tensor] = []
    for name, share in shares.items():
        n_held_out = 0
        if is_whole(share):
            n_held_out = int(share)
        elif isinstance(share, Real) and 0 < share < 1:
            n_held_out = round(n_items * float(share))
        if not 0 < n_held_out < len(order):
            there = counted(n_items, "item", "items")
            there += f", of which {len(order)} are left" if found else ""
            raise ValueError(
                f"{name}={share!r} cannot be held out of {there}. Pass a share between 0 and 1, or a number "
                f"of items, so that each part has some; a pair (inputs, targets); or {name}=None for none."
            )
        found.append(order[:n_held_out])
        order = order[n_held_out:]
    return [order, *found]


def check_batch_size(batch_size: Any) -> int:
    """Check that the batch size is a whole number of at least 1."""
    if not is_whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: pass a whole number of items, 1 or more.")
    return int(batch_size)


def is_whole(value: Any) -> bool:
    """Is this an int, of Python or NumPy, and not a bool?"""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_seed(seed: Any) -> int:
    """Check a seed; if there is none, draw one."""
    if seed is None:
        return draw_seed()
    if not is_whole(seed) or not 0 <= seed < 2**63:
        raise ValueError(f"seed={seed!r}: pass a whole number, 0 or more, or None to draw a random seed.")
    return int(seed)


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun: `1 batch`, `2 batches`."""
    return f"{number:,} {one if number == 1 else many}"


def describe(item: Any, depth: int = 1) -> str:
    """A description for messages: type, length, keys and shapes, down to a depth."""
    if isinstance(item, Stored):
        return repr(item)
    if isinstance(item, Tensor) and item.is_nested:
        return f"a nested tensor of {item.size(0)} items with dtype {item.dtype}"
    if isinstance(item, Tensor):
        return f"a tensor of shape {tuple(item.shape)} with dtype {item.dtype}"
    kind = with_article(item)
    if is_array(item):
        return f"{kind} of shape {tuple(item.shape)}"
    if isinstance(item, Mapping):
        return f"{kind} with the keys {', '.join(map(repr, list(item)[:8])) or '(none)'}"
    if isinstance(item, (tuple, list)):
        parts = ", ".join(describe(part, depth - 1) for part in item[:4])
        inside = f" ({parts}{', ...' if len(item) > 4 else ''})" if depth else ""
        return f"{kind} of {len(item)}{inside}" if item else f"an empty {type(item).__name__}"
    if item is None or isinstance(item, (str, int, float)):
        return repr(item) if len(repr(item)) < 60 else f"{repr(item)[:57]}..."
    if isinstance(item, type):
        return f"the class {item.__name__}"
    return kind
