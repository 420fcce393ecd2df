"""A data set whose random draws in a worker depend on the epoch and the batch alone."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from learner.data.generators import seed_generators

OWN = frozenset({"dataset", "base_seed"})
STREAMS = (b"torch", b"python", b"numpy", b"own")  # each gets its own seed


class Seeded(Dataset[Any]):
    """A data set whose random draws in a loader's worker depend on the epoch and the batch alone.

    A worker draws from one stream as long as it lives, so its draws for a batch depend on all earlier
    batches, and a run that resumes within an epoch must fetch them again. With `Seeded`, each batch starts
    its own streams (of torch, NumPy, Python, and of generators that the data set holds), and earlier batches
    are not needed. In the main process nothing changes. Attributes are those of the data set.

    `Data.from_datasets(..., num_workers=2)` wraps data sets in it. With `persistent_workers=True` the loader
    has one seed for all epochs, so a batch of the same items has the same draws in each epoch.

    Args:
        dataset: a map-style data set, with `__getitem__` and `__len__`.

    Raises:
        TypeError: it is an `IterableDataset`, which has no indices.
    """

    dataset: Any
    base_seed: int | None  # of workers in another process, for workers that replace them

    def __init__(self, dataset: Any):
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"Seeded({type(dataset).__name__}): it needs a map-style data set, with __getitem__ and "
                "__len__; pass an iterable one to the loader directly."
            )
        self.dataset, self.base_seed = dataset, None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        self._seed([index])  # a loader without batching requests single items
        return self.dataset[index]

    def __getitems__(self, indices: Sequence[Any]) -> Any:
        """The items of a batch, seeded once for all."""
        self._seed(indices)
        together = getattr(self.dataset, "__getitems__", None)
        return together(indices) if together else [self.dataset[index] for index in indices]

    def _seed(self, indices: Sequence[Any]) -> None:
        worker = get_worker_info()
        if worker is None:
            return
        base_seed = worker.seed - worker.id if self.base_seed is None else self.base_seed
        key = repr((base_seed, list(indices))).encode()
        seeds = [int.from_bytes(hashlib.blake2b(key, digest_size=8, salt=name).digest()) for name in STREAMS]
        torch.default_generator.manual_seed(seeds[0])  # torch.manual_seed would also seed the devices
        random.seed(seeds[1])
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed([seeds[2] >> 32, seeds[2] % 2**32])
        seed_generators(self.dataset, seeds[3])

    def __getattr__(self, name: str) -> Any:
        if name in OWN or name.startswith("__"):  # pickle reads attributes before they exist
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN:
            super().__setattr__(name, value)
        else:
            setattr(self.dataset, name, value)

    def __repr__(self) -> str:
        return f"Seeded({self.dataset!r})"


def seeded(dataset: Any, options: Mapping[str, Any]) -> Any:
    """The data set, wrapped in `Seeded` if workers start again each epoch, so that draws can be repeated."""
    if not options.get("num_workers") or options.get("persistent_workers"):
        return dataset
    return dataset if dataset is None or isinstance(dataset, (IterableDataset, Seeded)) else Seeded(dataset)
