"""What one item looks like to `predict`: from training, or from one batch of the data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.place.device import map_tensors
from learner.data.batching import TensorLoader
from learner.data.data import Data
from learner.data.items import in_batch
from learner.data.loaders import is_one_shot, is_open, is_sequence
from learner.data.samples import Samples, samples_of
from learner.inference.gathering import has_rows
from learner.passes import positions, streams
from learner.state import snapshots
from learner.state.protocol import FullLearner


def training_samples(learn: FullLearner) -> Samples | None:
    """What the model's arguments look like for one item; None if it is not known.

    It is known from the first batch of a fit. Otherwise one batch of the data is looked at, if nothing of it
    is used up and no random state changes. Without data, the file from which the weights were loaded has it.
    """
    known = learn.loop.known
    if known.samples is None or known.samples[0] is not learn.data:
        batch = first_batch(learn.data)
        if batch is None:
            return known.loaded_samples
        inputs, _ = learn.data.split(batch)
        known.samples = learn.data, samples_of(inputs, in_batch(learn.data, batch))
    return known.samples[1]


def first_batch(data: Data, n_items: int = 2) -> Any:
    """A batch of the data, without a trace; None if that is not possible. Tensors give `n_items` items."""
    loaders: tuple[Any, ...] = (data.train, data.valid)
    for loader in loaders:
        if isinstance(loader, TensorLoader):
            rows = tuple([column[:n_items] for column in loader.columns])
            return rows if loader.keys is None else dict(zip(loader.keys, rows, strict=True))
        if is_sequence(loader) and loader:
            return loader[0]
        if is_repeatable(loader):
            with unchanged(loader):
                batches = iter(data.batches(without_workers(loader)))
                batch = next(batches, None)
                getattr(batches, "close", lambda: None)()  # of a generator
            if batch is not None:
                return batch
    return None


def is_repeatable(loader: Any) -> bool:
    """Can its first batch be fetched without using up something: is it torch's loader, or a function?"""
    if loader is None or is_one_shot(loader) or hasattr(loader, "load_state_dict"):
        return False
    if not isinstance(loader, DataLoader) and hasattr(loader, "__iter__"):
        return False  # an unknown class may count what it returns
    return not any(map(is_open, streams.state_of(loader).values()))


@contextmanager
def unchanged(loader: Any) -> Iterator[None]:
    """Restore the random generators that the loader and its data set hold, the global ones, and its order."""
    states = positions.generator_states(loader)
    try:
        with snapshots.keep_random_states(loader):
            yield
    finally:
        positions.set_generator_states(loader, states)


def without_workers(loader: Any) -> Any:
    """The same `DataLoader` without worker processes."""
    if not isinstance(loader, DataLoader):
        return loader
    single: Any = copy.copy(loader)
    vars(single).update(num_workers=0, timeout=0, persistent_workers=False, _iterator=None, pin_memory=False)
    return single


def without_batch(output: Any) -> Any:
    """The output for a batch of one item, on the CPU, without the dimension of the items."""
    if type(output) is list and len(output) == 1 and not has_rows(output[0], 1):
        return to_cpu(output[0])  # one entry per item, such as a dict of boxes
    return map_tensors(to_cpu(output), first_row, lambda item: isinstance(item, np.ndarray))


def first_row(array: Any) -> Any:
    """A tensor or array without the dimension of the single item: the first one, or the second."""
    if array.ndim and array.shape[0] == 1:
        return array[0]
    return array[:, 0] if array.ndim > 1 and array.shape[1] == 1 else array


def to_cpu(output: Any) -> Any:
    """An output with all its tensors on the CPU, without their graphs."""
    return map_tensors(output, lambda leaf: (leaf.detach() if isinstance(leaf, Tensor) else leaf).to("cpu"))
