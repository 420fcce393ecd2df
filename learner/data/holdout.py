"""Hold out items for validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from learner.data.stored import Stored
from learner.data.tensors import Columns, as_columns, describe, draw_rows


@dataclass
class Part:
    """The arguments of a `TensorLoader`."""

    tensors: Any  #: a sequence, or a mapping by name
    rows: Tensor | None = None  #: the numbers of its items; None for all


def hold_out(
    found: Columns, targets: Any, wanted: Mapping[str, Any], seed: int
) -> tuple[Part, list[Part | None]]:
    """The training part, and the parts to hold out, each None if it is not wanted.

    Nothing is copied: all parts have the same columns, and the numbers of their own rows. Arrays on a disk
    are read in ascending order.

    Args:
        found: all columns.
        targets: the targets that they were made of.
        wanted: for `"valid"` and `"test"` a share, a number, a pair of tensors, a mapping of them, or None.
        seed: for the rows.

    Raises:
        TypeError, ValueError: such a split is impossible.
    """
    parts: dict[str, Part] = {"train": Part(found.original)}
    shares = {}
    for name, each in wanted.items():
        if isinstance(each, (tuple, list, Mapping)):
            parts[name] = Part(check_valid(name, each, found, targets).original)
        elif each is not None:
            shares[name] = each
    if shares:
        drawn = draw_rows(len(found.tensors[0]), shares, seed)
        is_stored = any(isinstance(column, Stored) for column in found.tensors)
        for name, rows in zip(("train", *shares), drawn, strict=True):
            parts[name] = Part(found.original, rows.sort().values if is_stored else rows)
    return parts["train"], [parts.get(name) for name in wanted]


def check_valid(name: str, valid: Any, found: Columns, targets: Any) -> Columns:
    """Check that the columns to validate or test on have the number and the names of the training columns.

    Raises:
        TypeError, ValueError: they differ.
    """
    by_key = found.keys is not None and not isinstance(targets, Mapping) and isinstance(valid, Mapping)
    if not by_key and (isinstance(valid, Mapping) or len(valid) != 2):
        raise ValueError(
            f"{name} is {describe(valid)}: pass a pair (inputs, targets), or a share, such as 0.2."
        )
    given = as_columns(valid, found.target_keys or None) if by_key else as_columns(*valid)
    if (set(given.keys or ()), given.target_keys) != (set(found.keys or ()), found.target_keys):
        raise ValueError(
            f"{name} has {', '.join(given.keys or ('no names',))}, but training has "
            f"{', '.join(found.keys or ('no names',))}: use the same names."
        )
    n_all, n_inputs = len(found.tensors), found.n_inputs
    if (len(given.tensors), given.n_inputs) != (n_all, n_inputs):
        raise ValueError(
            f"{name} has {given.n_inputs} inputs and {len(given.tensors) - given.n_inputs} targets, but "
            f"there are {n_inputs} inputs and {n_all - n_inputs} targets for training: pass as many of each."
        )
    return given
