"""Tensors and arrays: check them, split them, and say what something is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from callbacks.core.draws import draw_seed
from learner.data.stored import Stored, signed

Column = Tensor | Stored
Made = TypeVar("Made")


class Columns(NamedTuple):
    """Inputs and targets in a row, and what they are."""

    tensors: tuple[Column, ...]
    n_inputs: int
    keys: tuple[str, ...] | None  #: where they were given by name
    target_keys: tuple[str, ...] = ()


def as_tensors(inputs: Any, targets: Any = None) -> tuple[tuple[Tensor, ...], int]:
    """Inputs and targets as tensors in a row, and how many of them are inputs; what is stored is read whole.

    Raises:
        TypeError, ValueError: something is not a tensor or array, has no items, or another number of items.
    """
    found = as_columns(inputs, targets)
    whole = [column if isinstance(column, Tensor) else column[:] for column in found.tensors]
    return tuple(whole), found.n_inputs


def as_columns(inputs: Any, targets: Any = None) -> Columns:
    """Inputs and targets as tensors in a row, but arrays that are better read a batch at a time.

    Args:
        inputs: a tensor or array, several of them, or a mapping of such.
        targets: a tensor or array, or several; with a mapping of inputs also a mapping, or the keys of those
            that are targets; or None.

    Raises:
        TypeError, ValueError: something is not a tensor or array, has no items, or another number of items.
    """
    if isinstance(inputs, Mapping):
        return check_lengths(named_columns(inputs, targets), inputs)
    if isinstance(targets, Mapping):
        raise TypeError(
            f"targets are {describe(targets)}, but inputs are {describe(inputs)}: give both by name, as in "
            "from_tensors({'x': inputs}, {'y': targets}), or neither."
        )
    first, second = row_of(inputs, "inputs"), row_of(targets, "targets")
    tensors = tuple(as_column(item, name) for name, item in (*first, *second))
    return check_lengths(Columns(tensors, len(first), None), inputs)


def row_of(items: Any, name: str) -> list[tuple[str, Any]]:
    """One item or several, each with the name that messages give it."""
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
                "'y'), or give the targets other names in a mapping of their own."
            )
    both = {**inputs, **added}
    if not all(isinstance(key, str) for key in both):
        raise TypeError(f"inputs are {describe(inputs)}: name tensors by strings, as the model names them.")
    tensors = tuple(
        as_column(item, f"inputs[{key!r}]" if key in inputs else key) for key, item in both.items()
    )
    return Columns(tensors, len(both) - len(target_keys), tuple(both), target_keys)


def check_lengths(found: Columns, inputs: Any) -> Columns:
    """Refuse none, and different numbers of items."""
    lengths = [len(tensor) for tensor in found.tensors]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"the tensors have {' and '.join(map(str, lengths))} items ({describe(found.tensors)}): give "
            "each the same number, one a row. A list of single items is one tensor by torch.stack(list)."
        )
    if not sum(lengths):
        raise ValueError(f"there are no items: inputs are {describe(inputs)}.")
    return found


def as_column(item: Any, name: str) -> Column:
    """A tensor of it, sharing memory where it can, or an array as `Stored`; float64 of NumPy becomes torch's
    default dtype."""
    if isinstance(item, Stored):
        return item
    if isinstance(item, Tensor):
        check_dense(item, name)
        tensor = item.detach() if item.requires_grad else item  # its graph would outlive the first step
        dtype = in_words(item, name, lambda: signed(item.dtype))
        tensor = tensor if tensor.dtype == dtype else tensor.to(dtype)
    elif is_array(item):
        tensor = from_array(item, name)
    else:
        raise TypeError(
            f"{name} is {describe(item)}, which is not a tensor or array: pass a tensor of shape (items, "
            f"...), as torch.tensor({name.split('[')[0]}); a list or tuple holds several such tensors, and a "
            "data set goes to Data.from_datasets."
        )
    if tensor.ndim == 0:
        raise ValueError(
            f"{name} is a tensor of no dimensions, so it has no items: give it the shape (items, ...)."
        )
    return tensor


def check_dense(item: Tensor, name: str) -> None:
    """Refuse a tensor that holds no number for each place.

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
    """Refuse an array with numbers that NumPy has masked.

    Raises:
        ValueError: the message has the number and a hint.
    """
    is_maskable = any(each.__name__ == "MaskedArray" for each in type(item).__mro__)
    n_masked = int(item.mask.sum()) if is_maskable else 0
    if n_masked:
        raise ValueError(
            f"{name} has {n_masked} numbers that are masked, which torch would take as they are: "
            f"pass {name}.filled(0), with the mask as a further input, or leave these items out."
        )


def from_array(item: Any, name: str) -> Column:
    """A NumPy array, or a pandas table or column: a tensor of the same memory where that may be had, `Stored`
    where only the batches are to be copied, else a tensor of a copy."""
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
    """What `make` returns; if torch does not have the type, an error that names the item, with a hint."""
    try:
        return make()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is {describe(item)}, which torch cannot take ({error}): pass numbers, as with "
            f"{name}.astype('float32')."
        ) from None


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
    kept, held_out = draw_rows(len(tensors[0]), valid, seed)
    return tuple(tensor[kept.to(tensor.device)] for tensor in tensors), tuple(
        tensor[held_out.to(tensor.device)] for tensor in tensors
    )


def draw_rows(n_items: int, valid: float, seed: int) -> tuple[Tensor, Tensor]:
    """The numbers of the items to train on, and of a share or number of them to validate on.

    Raises:
        ValueError: that leaves no items to train or to validate on.
    """
    n_valid = 0
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
    return order[n_valid:], order[:n_valid]


def check_batch_size(batch_size: Any) -> int:
    """A whole number, 1 or more."""
    if not is_whole(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: write a whole number of items, 1 or more.")
    return int(batch_size)


def is_whole(value: Any) -> bool:
    """An int, also NumPy's; not True or False."""
    return isinstance(value, Integral) and not isinstance(value, bool)


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
    """A description for messages: type, length, keys and shapes, to some depth."""
    if isinstance(item, Stored):
        return repr(item)
    if isinstance(item, Tensor) and item.is_nested:
        return f"a nested tensor of {item.size(0)} items and {item.dtype}"
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
