"""Turn what `predict` was given into a batch, and recognise one item by its shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.core.output import print_line
from callbacks.place.device import is_leaf
from learner.data.data import Data, InputsOnly
from learner.data.samples import OTHER, Sample, Samples
from learner.data.tensors import as_column, as_tensors, describe, is_array
from learner.inference.one_item import training_samples
from learner.state.protocol import FullLearner

ONCE = "predict recognised one item"


def as_inputs(inputs: Any, learn: FullLearner) -> tuple[InputsOnly, bool]:
    """Inputs as a batch without targets, and whether they were one item.

    Raises:
        TypeError, ValueError: they are neither tensors nor a mapping, or not as many as the model takes.
    """
    samples = training_samples(learn) or {}
    arguments = as_arguments(inputs, learn.data, samples)
    is_one = is_one_item(arguments, samples)
    if is_one:
        report_once(arguments, samples, learn)
        arguments = {key: as_batch_of_one(item, samples.get(key)) for key, item in arguments.items()}
    if isinstance(inputs, Mapping):
        return InputsOnly(arguments), is_one
    columns = tuple(arguments.values())
    is_checked = len(columns) == 1 and has_items(columns[0])  # by `as_arguments`
    if not is_checked and all(map(is_array, columns)):
        columns = as_tensors(columns)[0]
    return InputsOnly(columns), is_one


def has_items(item: Any) -> bool:
    """Is it a dense tensor with items?"""
    is_dense = type(item) is Tensor and item.layout is torch.strided and not item.is_nested
    return is_dense and item.ndim > 0 and len(item) > 0


def as_arguments(inputs: Any, data: Data, samples: Samples) -> dict[Any, Any]:
    """The model's arguments by position or keyword, as tensors where they are numbers."""
    if isinstance(inputs, Mapping):
        given = {key: item for key, item in inputs.items() if key not in data.target_keys}
        return {key: as_argument(item, f"inputs[{key!r}]", samples.get(key)) for key, item in given.items()}
    if not is_row(inputs, data.n_inputs, samples):
        return {0: as_argument(inputs, "inputs", samples.get(0))}
    found = {n: as_argument(item, f"inputs[{n}]", samples.get(n)) for n, item in enumerate(inputs)}
    if len(found) != data.n_inputs and data.custom_split is None:
        raise ValueError(
            f"predict got {describe(inputs)}, so {len(found)} inputs, but the model takes {data.n_inputs} "
            f"(Data(n_inputs={data.n_inputs})): pass the inputs without targets."
        )
    return found


def is_row(inputs: Any, n_inputs: int, samples: Samples) -> bool:
    """Is it a tuple or list of the model's arguments, rather than one argument?"""
    if not isinstance(inputs, (tuple, list)) or not inputs or (samples.get(0) == "list" and n_inputs == 1):
        return type(inputs) is tuple and len(inputs) == 1
    if all(map(is_array, inputs)):
        return True
    return len(inputs) == n_inputs and (n_inputs > 1 or type(inputs) is tuple)


def as_argument(item: Any, name: str, sample: Any) -> Any:
    """One argument: numbers, lists of numbers and arrays as a tensor."""
    is_dense = not isinstance(item, Tensor) or (item.layout is torch.strided and not item.is_nested)
    moves_itself = not isinstance(item, Tensor) and is_leaf(item)  # a PackedSequence, a batch of graphs
    if sample == "list" or not is_dense or moves_itself:
        return item
    if is_array(item):
        if not item.ndim:
            return torch.as_tensor(item)
        if is_float_array(item) and isinstance(sample, Sample) and sample.dtype.is_floating_point:
            dtype: Any = item.dtype
            native = np.array(item, dtype=dtype.newbyteorder("="), order="C")
            return torch.from_numpy(native).to(sample.dtype)  # float64 is NumPy's default, and seldom meant
        column = as_column(item, name)
        return column if isinstance(column, Tensor) else column[:]
    if is_of_numbers(item) and (isinstance(item, (tuple, list)) or getattr(sample, "shape", None) == ()):
        return of_numbers(item, name, sample)
    if (name == "inputs" or isinstance(sample, Sample)) and not (sample == OTHER and is_object(item)):
        where = "" if name == "inputs" else f" as {name}"
        usual = "a tensor of shape (items, ...), a list of numbers, a tuple of tensors, or a mapping"
        wanted = "the inputs of one batch as the model takes them in training" if sample == OTHER else usual
        raise TypeError(
            f"predict got {describe(item)}{where}: pass {wanted}. For the batches of a loader call "
            "learn.get_preds(loader)."
        )
    return item


def is_object(item: Any) -> bool:
    """Is it of a class such as a batch of graphs, not one of Python's containers or texts?"""
    return item is not None and not isinstance(item, (tuple, list, str, bytes))


def is_float_array(item: Any) -> bool:
    """Is it an array of numbers that torch has a type for?"""
    return type(item) is np.ndarray and item.dtype.kind == "f" and item.itemsize <= 8


def is_of_numbers(item: Any) -> bool:
    """Is it a number, or a list of numbers, of lists of numbers, and so on?"""
    while isinstance(item, (tuple, list)) and item:
        item = item[0]
    return isinstance(item, Number)


def of_numbers(item: Any, name: str, sample: Any) -> Tensor:
    """A number, or a list of numbers, as a tensor of the type of the training batches."""
    try:
        found = torch.tensor(item)
    except (TypeError, ValueError) as error:
        raise ValueError(f"predict got {describe(item)} as {name}, which is not an array: {error}.") from None
    is_held = isinstance(sample, Sample) and (sample.dtype.is_floating_point or not found.is_floating_point())
    return found.to(sample.dtype) if is_held else found


def is_one_item(arguments: dict[Any, Any], samples: Samples) -> bool:
    """Do all arguments have one dimension less than in training batches, and fit their items?"""
    if list(samples.values()) == ["list"]:
        return type(next(iter(arguments.values()))) is not list
    known = [
        sample.fits(arguments[key])
        for key, sample in samples.items()
        if isinstance(sample, Sample) and isinstance(arguments.get(key), Tensor)
    ]
    return bool(known) and all(known)


def as_batch_of_one(item: Any, sample: Any) -> Any:
    """One argument with the dimension of the items."""
    if sample == "list":
        return [item]
    return item.unsqueeze(sample.dim) if isinstance(sample, Sample) and isinstance(item, Tensor) else item


def report_once(arguments: dict[Any, Any], samples: Samples, learn: FullLearner) -> None:
    """Print that one item was recognised, once for each learner."""
    if ONCE in learn.reported:
        return
    learn.reported.add(ONCE)
    shown = next(((key, each) for key, each in samples.items() if isinstance(each, Sample)), None)
    if shown is None:
        print_line("predict: one item, because batches are lists; the result has no batch dimension")
        return
    key, sample = shown
    print_line(
        f"predict: one item of shape {tuple(arguments[key].shape)}, because training batches have the "
        f"shape {sample.of_batch()}; the result has no batch dimension"
    )


@contextmanager
def noted(batch: InputsOnly, learn: FullLearner) -> Iterator[None]:
    """Add the shapes of the training batches to an error of the model, if those of the inputs differ."""
    try:
        yield
    except Exception as error:
        samples = training_samples(learn)
        given = batch.inputs if isinstance(batch.inputs, Mapping) else dict(enumerate(batch.inputs))
        if samples is None:
            given_as = describe(batch.inputs[0] if len(given) == 1 and 0 in given else batch.inputs)
            error.add_note(
                f"predict treated {given_as} as a batch, because the shapes of the training batches are not "
                "known: for one item pass x[None], and use [0] of the result"
            )
        for key, sample in (samples or {}).items():
            item = given.get(key)
            if isinstance(sample, Sample) and isinstance(item, Tensor) and not sample.is_of(item):
                error.add_note(
                    f"predict got {describe(item)}; training batches have the shape {sample.of_batch()} and "
                    f"{sample.dtype}"
                )
        raise
