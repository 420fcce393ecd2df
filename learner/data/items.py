"""The parts of a batch: its inputs and targets, and the number of its items.

The number is never certain: the first dimension may belong to a mask or be time. So inputs and targets are
compared, and if they disagree the targets decide, because the loss compares with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from callbacks.core.contract import LearnerProtocol
from callbacks.place.device import to_device
from learner.data.tensors import counted, describe

# What graph libraries and tensor dicts call their number of items.
NAMES = ("num_graphs", "batch_size")

Lengths = tuple[list[int], list[int]]  # what is likely the number of items, and what else may be


@dataclass
class InputsOnly:
    """A batch to predict: the model's inputs, a tuple or a mapping, which are not split."""

    inputs: Any
    targets: Any = None

    def to(self, device: Any) -> InputsOnly:
        """The batch on a device."""
        targets = None if self.targets is None else to_device(self.targets, device)
        return InputsOnly(to_device(self.inputs, device), targets)


def split_row(batch: Sequence[Any], n_inputs: int, target_keys: Sequence[str]) -> tuple[Any, Any]:
    """Split a tuple or list into inputs and targets."""
    if target_keys:
        raise TypeError(
            f"Data(targets={target_keys}) names keys of mappings, but a batch is {describe(batch)}: omit "
            "targets=, so that the last items of a batch are the targets."
        )
    if n_inputs > len(batch):
        raise ValueError(
            f"Data(n_inputs={n_inputs}), but a batch has only {counted(len(batch), 'item', 'items')}: "
            f"{describe(batch)}."
        )
    targets = tuple(batch[n_inputs:])
    return tuple(batch[:n_inputs]), targets[0] if len(targets) == 1 else targets or None


def split_mapping(batch: Mapping[str, Any], target_keys: Sequence[str]) -> tuple[Any, Any]:
    """Split a mapping into inputs and targets."""
    if not target_keys:
        return batch, batch.get("labels")
    for key in target_keys:
        if key not in batch:
            close = get_close_matches(str(key), map(str, batch), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"Data(targets={target_keys}): a batch has no {key!r}.{hint} It is {describe(batch)}."
            )
    found = tuple([batch[key] for key in target_keys])
    inputs = {key: item for key, item in batch.items() if key not in target_keys}
    return inputs, found[0] if len(found) == 1 else found


def split_by_function(batch: Any, function: Callable[[Any], Any]) -> tuple[Any, Any]:
    """Split a batch with a function of the user."""
    found = function(batch)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(
            f"Data(split={getattr(function, '__name__', function)}) returned {describe(found)} for "
            f"{describe(batch)}: return a pair, (inputs, targets)."
        )
    inputs, targets = found
    return inputs if isinstance(inputs, (tuple, Mapping)) else (inputs,), targets


def check_keys(targets: Any) -> tuple[Any, ...]:
    """The keys of the targets as a tuple."""
    keys = (targets,) if isinstance(targets, str) else () if targets is None else targets
    if not isinstance(keys, (tuple, list)) or not all(isinstance(key, str) and key for key in keys):
        raise TypeError(
            f"Data(targets={targets!r}): pass the keys of the targets, such as 'y' or ('y', 'z')."
        )
    return tuple(keys)


def of_batch(learn: LearnerProtocol) -> int:
    """Number of items in the current batch: from `Data(n_items=...)`, otherwise from inputs and targets.

    Raises:
        TypeError: the function returned something that is not a whole number.
    """
    count, inputs, targets = learn.data.count_items, learn.inputs, learn.targets
    if count is not None and not isinstance(learn.batch, InputsOnly):
        return checked(count(learn.batch), count)
    if type(targets) is Tensor and type(inputs) is tuple and inputs:
        first = inputs[0]
        try:  # free without an error; checking the dimensions first would double the time
            if type(first) is Tensor and (n_items := first.shape[0]) == targets.shape[0]:
                return n_items
        except (IndexError, RuntimeError):  # a number, or a nested tensor
            pass
    return n_items_of(inputs, targets)


def in_batch(data: Any, batch: Any) -> int:
    """Number of items in a batch of this data."""
    count = data.count_items
    return n_items_of(*data.split(batch)) if count is None else checked(count(batch), count)


def known_count(data: Any, batch: Any) -> int | None:
    """Number of items in a batch of this data; None if nothing in it has a length."""
    inputs, targets = data.split(batch)
    has_length = data.count_items is not None or lengths_of(targets)[0] or lengths_of(inputs)[0]
    return in_batch(data, batch) if has_length else None


def checked(number: Any, count: Any) -> int:
    """Check the number that a function of the user returned; if it is a tensor, this waits for the device."""
    is_one = isinstance(number, Tensor) and number.numel() == 1 and not number.is_floating_point()
    number = number.item() if is_one else number
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 0:
        name = getattr(count, "__name__", count)
        raise TypeError(
            f"Data(n_items={name}) returned {number!r} for a batch: return its number of items, such as "
            "lambda batch: len(batch[0])."
        )
    return int(number)


def n_items_of(inputs: Any, targets: Any) -> int:
    """Number of items in a batch of any kind; 1 if nothing in it has a length."""
    return counts_of(inputs, targets)[0]


def counts_of(inputs: Any, targets: Any) -> tuple[int, int | None]:
    """Number of items in a batch, and the number in the inputs if it differs.

    Args:
        inputs: the model's arguments: a tuple, a mapping of keywords, or one argument.
        targets: the targets, of any kind, or None.
    """
    (theirs, theirs_too), (ours, ours_too) = lengths_of(targets), lengths_of(inputs)
    if not theirs:
        return (Counter(ours).most_common(1)[0][0] if ours else 1), None
    for some, others in ((theirs, ours), (theirs, ours_too), (theirs_too, ours)):
        for number in some:
            if number in others:
                return number, None
    return theirs[0], ours[0] if ours else None


def both_have_time_first(inputs: Any, targets: Any) -> bool:
    """Are there equally many sequences of different lengths, so that only the second dimensions agree?"""
    first: Any = inputs[0] if type(inputs) is tuple and inputs else inputs
    if not all(isinstance(each, Tensor) and not each.is_nested for each in (first, targets)):
        return False
    are_sequences = min(first.ndim, targets.ndim) >= (3 if targets.is_floating_point() else 2)
    return are_sequences and first.shape[0] != targets.shape[0] and first.shape[1] == targets.shape[1] > 1


def lengths_of(columns: Any) -> Lengths:
    """The lengths in inputs or targets: the likely ones in order, and other possible ones."""
    if isinstance(columns, Mapping):
        return together(columns.values())
    if type(columns) is tuple and not all(isinstance(each, (Mapping, str)) for each in columns):
        return together(columns)
    return lengths_of_column(columns)


def together(columns: Iterable[Any]) -> Lengths:
    """The lengths of several arguments or targets."""
    found = [lengths_of_column(each) for each in columns]
    return [n for likely, _ in found for n in likely], [n for _, others in found for n in others]


def lengths_of_column(column: Any) -> Lengths:
    """The lengths of one argument or target."""
    if isinstance(column, Tensor):
        return lengths_of_tensor(column)
    if isinstance(column, PackedSequence):  # its data has a row for each step of each item
        return [int(column.batch_sizes[0])], [len(column.data)]
    if isinstance(column, Mapping):
        return together(column.values())
    if isinstance(column, (tuple, list)):
        return lengths_of_sequence(column)
    if isinstance(column, np.ndarray):
        return list(column.shape[:1]), list(column.shape[1:2])
    return lengths_of_object(column)


def lengths_of_tensor(tensor: Tensor) -> Lengths:
    """The first dimension; or the second one if time comes first, or several that the model flattens."""
    if not tensor.ndim or tensor.is_nested:
        return ([tensor.size(0)] if tensor.ndim else []), []
    shape = tensor.shape
    return [shape[0]], [*shape[1:2], *(shape[:n].numel() for n in range(2, len(shape) + 1))]


def lengths_of_sequence(items: Sequence[Any]) -> Lengths:
    """The number of entries, such as images of different sizes; or, in columns, the length of each."""
    if not items or not all(isinstance(each, Tensor) and each.ndim for each in items):
        return [len(items)], []
    lengths = {each.size(0) for each in items}
    return [len(items)], list(lengths) if len(lengths) == 1 else []


def lengths_of_object(thing: Any) -> Lengths:
    """The length of a graph or another object: its own number of items, or the lengths of its tensors."""
    for name in NAMES:
        number = getattr(thing, name, None)
        if isinstance(number, int):
            return [number], []
        if isinstance(number, tuple) and number:  # a torch.Size
            return [int(number[0])], []
    held = getattr(thing, "__dict__", {})
    return together(each for each in held.values() if isinstance(each, Tensor))


def have_gradients(optimizer: Any) -> bool:
    """Does any parameter of an optimizer have a gradient?"""
    groups = () if optimizer is None else optimizer.param_groups
    return any(parameter.grad is not None for group in groups for parameter in group["params"])
