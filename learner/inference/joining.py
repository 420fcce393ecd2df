"""Join the outputs of the batches of a pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import reduce
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from callbacks.core.output import listed
from callbacks.place.device import tensors_in
from learner.data.sharing.slicing import rebuilt
from learner.data.stored import WIDER
from learner.data.tensors import describe


class JoinError(ValueError):
    """Outputs of the batches cannot be joined."""


class Ops(NamedTuple):
    """The functions that join a kind of array."""

    stack: Callable[[list[Any]], Any]
    concatenate: Callable[[list[Any], int], Any]
    unbind: Callable[[Any, int], Sequence[Any]]


TENSORS = Ops(torch.stack, torch.cat, torch.unbind)
ARRAYS = Ops(np.stack, np.concatenate, lambda array, axis: list(np.moveaxis(array, axis, 0)))


def join(parts: Sequence[Any], sizes: Sequence[int], place: str) -> Any:
    """Join the outputs of batches: tensors along the item dimension, nested outputs part by part.

    Args:
        parts: the output of each batch, on the CPU.
        sizes: the number of items in each batch.
        place: the name in messages, such as `"preds['logits']"`.

    Raises:
        JoinError: the outputs cannot be joined; the message says why.
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


# Nested outputs


def join_mappings(parts: Sequence[Mapping[Any, Any]], sizes: Sequence[int], place: str) -> Any:
    """Join mappings key by key, into a mapping of the same type."""
    first = parts[0]
    for part in parts[1:]:
        if part.keys() != first.keys():
            raise JoinError(f"{place} has the keys {list(first)} in one batch and {list(part)} in another")
    return rebuilt(first, [join([part[key] for part in parts], sizes, f"{place}[{key!r}]") for key in first])


def join_dataclasses(parts: Sequence[Any], sizes: Sequence[int], place: str) -> Any:
    """Join data classes field by field, into a data class of the same type."""
    new = copy.copy(parts[0])  # a copy, because the constructor may not take all fields
    for field in fields(new):
        values = [getattr(part, field.name) for part in parts]
        # a frozen data class refuses an assignment
        object.__setattr__(new, field.name, join(values, sizes, f"{place}.{field.name}"))
    return new


def join_rows(parts: Sequence[Any], sizes: Sequence[int], place: str) -> Any:
    """Join lists and tuples: items end to end, several outputs one by one."""
    first = parts[0]
    if not are_outputs(parts, sizes):
        return [item for part in parts for item in part]
    columns = zip(*parts, strict=True)
    joined = [join(column, sizes, f"{place}[{n}]") for n, column in enumerate(columns)]
    return joined if isinstance(first, list) else rebuilt(first, joined)


def are_outputs(parts: Sequence[Any], sizes: Sequence[int]) -> bool:
    """Are these lists or tuples several outputs of a model, rather than one entry per item?

    There is one entry per item if the lengths are the sizes of the batches, and these differ. Lists of one
    length are outputs if the batches have other sizes. If length and sizes are the same, the contents decide.
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
    """Does the first array with dimensions have the items in one of its first two dimensions?"""
    first = next((each for each in arrays if each.ndim), None)
    return first is not None and n_items in first.shape[:2]


def batched(parts: Sequence[Any]) -> bool:
    """Does each tensor in these lists have as many rows as its list has entries?"""
    return all(each.ndim and each.shape[0] == len(part) for part in parts for each in arrays_in(part))


def arrays_in(nest: Any) -> Iterator[Any]:
    """The tensors and arrays of a list or tuple."""
    for item in nest:
        if isinstance(item, np.ndarray):
            yield item
        yield from (each for each in tensors_in(item) if not each.is_nested)


# Tensors and arrays


def join_tensors(parts: Sequence[Tensor], sizes: Sequence[int], place: str) -> Any:
    """Join tensors along the dimension of the items; items of different shapes become a list."""
    parts = in_one_dtype(parts, place)
    if any(part.is_nested for part in parts):
        return join_nested(parts)
    layouts = {part.layout for part in parts}
    if len(layouts) > 1 or layouts - {torch.strided, torch.sparse_coo}:
        shown = ", ".join(sorted(map(str, layouts)))
        raise JoinError(f"{place} has the layout {shown}: only dense and torch.sparse_coo can be joined")
    return join_arrays(parts, sizes, place, TENSORS)


def join_arrays(parts: Sequence[Any], sizes: Sequence[int], place: str, ops: Ops = ARRAYS) -> Any:
    """Join arrays along the dimension of the items; single numbers become a row with one per batch."""
    if not any(part.ndim for part in parts):
        return ops.stack(list(parts))
    parts = unsqueezed(parts, sizes)
    if len({part.ndim for part in parts}) > 1:
        raise shape_error(parts, place)
    known = items_dimension(parts, sizes)
    dim = known or 0
    if len({(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts}) == 1:
        return ops.concatenate(parts, dim)
    if known is None:
        raise shape_error(parts, place)
    return [item for part in parts for item in ops.unbind(part, dim)]


def unsqueezed(parts: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """Add the first dimension again where `squeeze()` in the model has removed it from a batch of one item.

    If every batch has one item, it was removed from all of them if no dimension has the size 1.
    """
    n_dims = max(part.ndim for part in parts)
    if len(parts) > 1 and set(sizes) == {1} and {part.ndim for part in parts} == {n_dims}:
        n_dims += items_dimension(parts, sizes) is None
    return [
        part[None] if n == 1 and part.ndim == n_dims - 1 else part
        for part, n in zip(parts, sizes, strict=True)
    ]


def items_dimension(parts: Sequence[Any], sizes: Sequence[int]) -> int | None:
    """The dimension of the items in every batch: the first or the second; None if it is neither.

    It is the second in sequences whose first dimension is time, and in the states of recurrent layers. If a
    matrix has as many columns as items by chance, the number of rows usually differs between batches.
    """

    def counts(dim: int) -> bool:
        return all(p.ndim > dim and p.shape[dim] == n for p, n in zip(parts, sizes, strict=True))

    if counts(0):
        return 0
    is_sure = parts[0].ndim > 2 or len(set(sizes)) > 1 or len({part.shape[0] for part in parts}) == 1
    return 1 if is_sure and counts(1) else None


def shape_error(parts: Sequence[Any], place: str) -> JoinError:
    """The error for shapes that cannot be joined."""
    shapes = list(dict.fromkeys(str(tuple(part.shape)) for part in parts))
    return JoinError(f"{place} has the shapes {listed(shapes, 3)} in the batches")


def in_one_dtype(parts: Sequence[Tensor], place: str) -> Sequence[Tensor]:
    """Convert tensors to the narrowest dtype that can hold all their values."""
    dtypes = list(dict.fromkeys(part.dtype for part in parts))
    if len(dtypes) == 1:
        return parts
    shown = ", ".join(map(str, dtypes))
    try:
        dtype = reduce(torch.promote_types, [WIDER.get(each, each) for each in dtypes])
    except RuntimeError as error:  # torch has no common type for float8 and other types
        raise JoinError(f"{place} has the dtypes {shown}, which have no common dtype") from error
    for part in parts:
        is_whole = not (part.is_floating_point() or part.is_complex())
        if is_whole and not torch.equal(part.to(dtype).to(part.dtype), part):
            raise JoinError(f"{place} has the dtypes {shown}, and {dtype} cannot hold all its integers")
    return [part.to(dtype) for part in parts]


def join_nested(parts: Sequence[Tensor]) -> Any:
    """Join nested tensors into one nested tensor, or a list of items if that is not possible."""
    items = [item for part in parts for item in part.unbind()]
    is_jagged = any(part.layout is torch.jagged for part in parts)
    if len({item.ndim for item in items}) > 1 or (is_jagged and len({item.shape[1:] for item in items}) > 1):
        return items
    return torch.nested.as_nested_tensor(items, layout=torch.jagged if is_jagged else torch.strided)


# Packed sequences


def join_packed(parts: Sequence[PackedSequence], sizes: Sequence[int], place: str) -> PackedSequence:
    """Join packed sequences into one, with the items in their original order."""
    for part in parts:
        check_packed(part, place)
    sequences = in_one_dtype([each for part in parts for each in sequences_of(part)], place)
    if len({each.shape[1:] for each in sequences}) > 1:
        raise shape_error([part.data for part in parts], f"{place}.data")
    return pack_sequence(list(sequences), enforce_sorted=False)


def sequences_of(packed: PackedSequence) -> list[Tensor]:
    """The items, each of shape (steps, ...), in their original order."""
    sizes = packed.batch_sizes
    starts = sizes.cumsum(0) - sizes
    found = [packed.data[starts[sizes > n] + n] for n in range(int(sizes[0]))]
    order = packed.unsorted_indices
    return found if order is None else [found[n] for n in order.tolist()]


def check_packed(packed: PackedSequence, place: str) -> None:
    """Refuse an invalid packed sequence, with which torch would read past the end of its memory."""
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


#: The function that joins each type; the first type that matches is used.
KINDS: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (PackedSequence, join_packed),
    (Tensor, join_tensors),
    (np.ndarray, join_arrays),
    (Mapping, join_mappings),
    ((tuple, list), join_rows),
    ((str, bytes, Number, np.generic), lambda parts, *_: list(parts)),  # one per batch
)
