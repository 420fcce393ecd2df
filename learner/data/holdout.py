"""Hold out items for validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from learner.data.stored import Stored
from learner.data.tensors import Columns, as_columns, describe, draw_rows, split_at_random


@dataclass
class Part:
    """The arguments of a `TensorLoader`."""

    tensors: Any  #: a sequence, or a mapping by name
    rows: Tensor | None = None  #: the numbers of its items; None for all


def hold_out(found: Columns, targets: Any, valid: Any, seed: int) -> tuple[Part, Part | None]:
    """The training part and the validation part.

    Stored arrays are not copied: both parts have the whole array and the numbers of their own rows, in
    ascending order as on the disk.

    Raises:
        TypeError, ValueError: such a split is impossible.
    """
    everything = Part(held(found))
    if valid is None:
        return everything, None
    if isinstance(valid, (tuple, list, Mapping)):
        return everything, Part(held(check_valid(valid, found, targets)))
    if any(isinstance(column, Stored) for column in found.tensors):
        kept, rest = draw_rows(len(found.tensors[0]), valid, seed)
        return replace(everything, rows=kept.sort().values), replace(everything, rows=rest.sort().values)
    tensors: Any = found.tensors
    kept, rest = split_at_random(tensors, valid, seed)
    assert rest is not None  # `valid` is a share or a number
    return Part(held(found._replace(tensors=kept))), Part(held(found._replace(tensors=rest)))


def held(found: Columns) -> Any:
    """The columns in their original form: a mapping by name or a tuple."""
    return found.tensors if found.keys is None else dict(zip(found.keys, found.tensors, strict=True))


def check_valid(valid: Any, found: Columns, targets: Any) -> Columns:
    """Check that the validation columns have the number and the names of the training columns.

    Raises:
        TypeError, ValueError: they differ.
    """
    by_key = found.keys is not None and not isinstance(targets, Mapping) and isinstance(valid, Mapping)
    if not by_key and (isinstance(valid, Mapping) or len(valid) != 2):
        raise ValueError(
            f"valid is {describe(valid)}: pass a pair (inputs, targets), or a share, such as 0.2."
        )
    given = as_columns(valid, found.target_keys or None) if by_key else as_columns(*valid)
    if (set(given.keys or ()), given.target_keys) != (set(found.keys or ()), found.target_keys):
        raise ValueError(
            f"valid has {', '.join(given.keys or ('no names',))}, but training has "
            f"{', '.join(found.keys or ('no names',))}: use the same names."
        )
    n_all, n_inputs = len(found.tensors), found.n_inputs
    if (len(given.tensors), given.n_inputs) != (n_all, n_inputs):
        raise ValueError(
            f"valid has {given.n_inputs} inputs and {len(given.tensors) - given.n_inputs} targets, but there "
            f"are {n_inputs} inputs and {n_all - n_inputs} targets for training: pass as many of each."
        )
    return given
