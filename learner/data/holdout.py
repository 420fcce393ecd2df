"""Hold items out to validate on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from learner.data.stored import Stored
from learner.data.tensors import Columns, as_columns, describe, draw_rows, split_at_random


@dataclass
class Part:
    """What a `TensorLoader` is made of."""

    tensors: Any  #: in a row or by name
    rows: Tensor | None = None  #: those of its items; None for all


def hold_out(found: Columns, targets: Any, valid: Any, seed: int) -> tuple[Part, Part | None]:
    """What to train on and what to validate on.

    Where something is stored, nothing is copied: both have all of it, and rows of their own, ascending as
    they stand on the disk.

    Raises:
        TypeError, ValueError: no such split can be made.
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
    assert rest is not None  # there is a share
    return Part(held(found._replace(tensors=kept))), Part(held(found._replace(tensors=rest)))


def held(found: Columns) -> Any:
    """Columns as they were given: by name or in a row."""
    return found.tensors if found.keys is None else dict(zip(found.keys, found.tensors, strict=True))


def check_valid(valid: Any, found: Columns, targets: Any) -> Columns:
    """The columns to validate on, as many as those to train on and of the same names.

    Raises:
        TypeError, ValueError: they are not.
    """
    by_key = found.keys is not None and not isinstance(targets, Mapping) and isinstance(valid, Mapping)
    if not by_key and (isinstance(valid, Mapping) or len(valid) != 2):
        raise ValueError(f"valid is {describe(valid)}: pass a pair (inputs, targets), or a share as 0.2.")
    given = as_columns(valid, found.target_keys or None) if by_key else as_columns(*valid)
    if (set(given.keys or ()), given.target_keys) != (set(found.keys or ()), found.target_keys):
        raise ValueError(
            f"valid has {', '.join(given.keys or ('no names',))}, but training has "
            f"{', '.join(found.keys or ('no names',))}: give the same names."
        )
    n_all, n_inputs = len(found.tensors), found.n_inputs
    if (len(given.tensors), given.n_inputs) != (n_all, n_inputs):
        raise ValueError(
            f"valid has {given.n_inputs} inputs and {len(given.tensors) - given.n_inputs} targets, but there "
            f"are {n_inputs} inputs and {n_all - n_inputs} targets to train on: give as many of each."
        )
    return given
