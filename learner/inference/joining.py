"""Join the predictions and targets of the batches of a pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from callbacks.place.device import tensors_in
from learner.data.tensors import describe

#: A wider type with a sign for the unsigned ones that torch does not promote.
SIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64}


class JoinError(ValueError):
    """Outputs of the batches cannot be joined."""


class Ops(NamedTuple):
    """How a kind of array is joined."""

    stack: Callable[[list[Any]], Any]
    concatenate: Callable[[list[Any], int], Any]
    unbind: Callable[[Any, int], Sequence[Any]]


TENSORS = Ops(torch.stack, torch.cat, torch.unbind)
ARRAYS = Ops(np.stack, np.concatenate, lambda array, axis: list(np.moveaxis(array, axis, 0)))


def join(parts: Sequence[Any], sizes: Sequence[int], place: str) -> Any:
    """Join the outputs of batches: tensors along the item dimension, nested ones part by part.

    Args:
        parts: the output of each batch, on the CPU.
        sizes: the number of items in each batch.
        place: the name in messages, as `"preds['logits']"`.

    Raises:
        JoinError: it cannot be joined; the message says why.
    """
    first = parts[0]
    if all(part is None for part in parts):
        return None
    for kind, join_kind in KINDS:
        if all(isinstance(part, kind) for part in parts):
            return join_kind(parts, sizes, place)
    if is_dataclass(first) and all(type(part) is type(first) for part in parts):
        return join_dataclasses(parts, sizes, place)
    kinds = list(dict.fromkeys(map(describe, parts)))
    if len(set(map(type, parts))) > 1:
        raise JoinError(f"{place} is of several kinds: {', '.join(kinds[:3])}")
    raise JoinError(f"{place} is {kinds[0]}, which cannot be joined over the batches")


# Nests


def join_mappings(parts: Sequence[Mapping[Any, Any]], sizes: Sequence[int], place: str) -> Any:
    """Key by key, as a mapping of the same kind."""
    first = parts[0]
    for part in parts[1:]:
        if part.keys() != first.keys():
            raise JoinError(f"{place} has the keys {list(first)} in one batch and {list(part)} in another")
    joined = {key: join([part[key] for part in parts], sizes, f"{place}[{key!r}]") for key in first}
    if type(first) is dict:
        return joined
    if not isinstance(first, MutableMapping):
        return type(first)(joined)  # type: ignore[call-arg]
    new = copy.copy(first)  # keeps a default factory, and the attributes of a Hugging Face output
    for key, value in joined.items():
        new[key] = value
    return new


def join_dataclasses(parts: Sequence[Any], sizes: Sequence[int], place: str) -> Any:
    """Field by field, as a data class of the same kind."""
    new = copy.copy(parts[0])  # not constructed again: fields may be missing in its constructor
    for field in fields(new):
        values = [getattr(part, field.name) for part in parts]
        # past the `__setattr__` of a frozen one
        object.__setattr__(new, field.name, join(values, sizes, f"{place}.{field.name}"))
    return new


def join_rows(parts: Sequence[Any], sizes: Sequence[int], place: str) -> Any:
    """Lists and tuples: a list of items end to end, several outputs each by itself."""
    first = parts[0]
    if not are_outputs(parts, sizes):
        return [item for part in parts for item in part]
    columns = zip(*parts, strict=True)
    joined = [join(column, sizes, f"{place}[{n}]") for n, column in enumerate(columns)]
    if hasattr(first, "_fields"):
        return type(first)(*joined)
    if hasattr(first, "n_fields"):  # what torch.max and its kin return
        return type(first)(joined)
    return joined if isinstance(first, list) else tuple(joined)


def are_outputs(parts: Sequence[Any], sizes: Sequence[int]) -> bool:
    """Are these lists or tuples several outputs of a model, rather than one entry per item?

    As many entries as items, in batches of several sizes, are items; the same number of entries in all
    batches are outputs. Where all batches have as many items as there are entries, what they hold decides.
    """
    first, lengths = parts[0], list(map(len, parts))
    if hasattr(first, "_fields") or hasattr(first, "n_fields"):
        return True
    arrays = [each for part in parts for each in arrays_in(part)]
    if lengths == list(sizes):
        if len(set(sizes)) > 1 or not arrays:
            return False
        if isinstance(first, tuple) and not all(isinstance(item, Mapping) for part in parts for item in part):
            return starts_batched(arrays, sizes[0])  # an output with its state
        return batched(parts)
    if len(set(lengths)) > 1:
        return False
    return bool(arrays) or isinstance(first, tuple)


def starts_batched(arrays: Sequence[Any], n_items: int) -> bool:
    """Does the first of these that is not a single number count the items in one of its first dimensions?"""
    first = next((each for each in arrays if each.ndim), None)
    return first is not None and n_items in first.shape[:2]


def batched(parts: Sequence[Any]) -> bool:
    """Has each tensor in these lists as many rows as its list has entries?"""
    return all(each.ndim and each.shape[0] == len(part) for part in parts for each in arrays_in(part))


def arrays_in(nest: Any) -> Iterator[Any]:
    """The tensors and arrays of a list or tuple."""
    for item in nest:
        if isinstance(item, np.ndarray):
            yield item
        yield from (each for each in tensors_in(item) if not each.is_nested)


# Tensors and arrays


def join_tensors(parts: Sequence[Tensor], sizes: Sequence[int], place: str) -> Any:
    """Along the dimension of the items; items of several shapes as a list."""
    parts = in_one_dtype(parts, place)
    if any(part.is_nested for part in parts):
        return join_nested(parts)
    layouts = {part.layout for part in parts}
    if len(layouts) > 1 or layouts - {torch.strided, torch.sparse_coo}:
        shown = ", ".join(sorted(map(str, layouts)))
        raise JoinError(f"{place} has the layout {shown}: only dense tensors and torch.sparse_coo are joined")
    return join_arrays(parts, sizes, place, TENSORS)


def join_arrays(parts: Sequence[Any], sizes: Sequence[int], place: str, ops: Ops = ARRAYS) -> Any:
    """Single numbers as a row with one per batch, others along the dimension of the items."""
    if not any(part.ndim for part in parts):
        return ops.stack(list(parts))
    parts = unsqueezed(parts, sizes)
    if len({part.ndim for part in parts}) > 1:
        raise refused_shapes(parts, place)
    known = items_dimension(parts, sizes)
    dim = known or 0
    if len({(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}) == 1:
        return ops.concatenate(parts, dim)
    if known is None:
        raise refused_shapes(parts, place)
    return [item for part in parts for item in ops.unbind(part, dim)]


def unsqueezed(parts: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """With the first dimension that `squeeze()` in the model takes from a batch of one item.

    Where every batch has one item, it was taken from all if no dimension counts the items.
    """
    n_dims = max(part.ndim for part in parts)
    if len(parts) > 1 and set(sizes) == {1} and {part.ndim for part in parts} == {n_dims}:
        n_dims += items_dimension(parts, sizes) is None
    return [
        part[None] if n == 1 and part.ndim == n_dims - 1 else part
        for part, n in zip(parts, sizes, strict=True)
    ]


def items_dimension(parts: Sequence[Any], sizes: Sequence[int]) -> int | None:
    """The dimension that counts the items in every batch: the first, else the second; None for neither.

    The second one is that of sequences with the time first, and of the states of recurrent layers. A matrix
    that merely has as many columns as each batch has items has another number of rows in each.
    """

    def counts(dim: int) -> bool:
        return all(p.ndim > dim and p.shape[dim] == n for p, n in zip(parts, sizes, strict=True))

    if counts(0):
        return 0
    is_sure = parts[0].ndim > 2 or len(set(sizes)) > 1 or len({part.shape[0] for part in parts}) == 1
    return 1 if is_sure and counts(1) else None


def refused_shapes(parts: Sequence[Any], place: str) -> JoinError:
    """The error for shapes that cannot be joined."""
    shapes = list(dict.fromkeys(str(tuple(part.shape)) for part in parts))
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    return JoinError(f"{place} has the shapes {', '.join(shapes[:3])}{more} in the batches")


def in_one_dtype(parts: Sequence[Tensor], place: str) -> Sequence[Tensor]:
    """Convert tensors to the narrowest dtype that holds all their numbers."""
    dtypes = list(dict.fromkeys(part.dtype for part in parts))
    if len(dtypes) == 1:
        return parts
    shown = ", ".join(map(str, dtypes))
    try:
        dtype = reduce(torch.promote_types, [SIGNED.get(each, each) for each in dtypes])
    except RuntimeError as error:  # torch has no common type, as of float8 and others
        raise JoinError(f"{place} has the dtypes {shown}, which have no common one") from error
    for part in parts:
        is_whole = not (part.is_floating_point() or part.is_complex())
        if is_whole and not torch.equal(part.to(dtype).to(part.dtype), part):
            raise JoinError(f"{place} has the dtypes {shown}, and {dtype} does not hold its integers")
    return [part.to(dtype) for part in parts]


def join_nested(parts: Sequence[Tensor]) -> Any:
    """Nested tensors as one nested tensor, or as a list of items if that is not possible."""
    items = [item for part in parts for item in part.unbind()]
    is_jagged = any(part.layout is torch.jagged for part in parts)
    if len({item.ndim for item in items}) > 1 or (is_jagged and len({item.shape[1:] for item in items}) > 1):
        return items
    return torch.nested.as_nested_tensor(items, layout=torch.jagged if is_jagged else torch.strided)


# Packed sequences


def join_packed(parts: Sequence[PackedSequence], sizes: Sequence[int], place: str) -> PackedSequence:
    """One packed sequence of all items, in the order in which they were given."""
    for part in parts:
        check_packed(part, place)
    sequences = in_one_dtype([each for part in parts for each in sequences_of(part)], place)
    if len({each.shape[1:] for each in sequences}) > 1:
        raise refused_shapes([part.data for part in parts], f"{place}.data")
    return pack_sequence(list(sequences), enforce_sorted=False)


def sequences_of(packed: PackedSequence) -> list[Tensor]:
    """The items, each of shape (steps, ...), in the order in which they were given."""
    sizes = packed.batch_sizes
    starts = sizes.cumsum(0) - sizes
    found = [packed.data[starts[sizes > n] + n] for n in range(int(sizes[0]))]
    order = packed.unsorted_indices
    return found if order is None else [found[n] for n in order.tolist()]


def check_packed(packed: PackedSequence, place: str) -> None:
    """Refuse an invalid packed sequence: torch would read past the end of its memory."""
    sizes, order = packed.batch_sizes, packed.unsorted_indices
    is_whole = (
        isinstance(sizes, Tensor)
        and sizes.ndim == 1
        and sizes.numel() > 0
        and not sizes.is_floating_point()
        and packed.data.ndim > 0
        and int(sizes.min()) > 0
        and bool((sizes[1:] <= sizes[:-1]).all())
        and int(sizes.sum()) == len(packed.data)
        and (order is None or order.sort().values.tolist() == list(range(int(sizes[0]))))
    )
    if not is_whole:
        raise JoinError(
            f"{place} is a PackedSequence whose batch_sizes ({describe(sizes)}) or indices do not fit its "
            f"data ({describe(packed.data)})"
        )


def one_per_batch(parts: Sequence[Any], _sizes: Sequence[int], _place: str) -> list[Any]:
    """A list of each batch's output."""
    return list(parts)


#: How each kind is joined; the first that fits counts.
KINDS: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (PackedSequence, join_packed),
    (Tensor, join_tensors),
    (np.ndarray, join_arrays),
    (Mapping, join_mappings),
    ((tuple, list), join_rows),
    ((str, bytes, Number, np.generic), one_per_batch),
)
