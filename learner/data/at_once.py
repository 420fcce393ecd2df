"""Index a whole batch of a `DataLoader` over tensors at once, instead of item by item."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate


class Collated(Dataset[Any]):
    """Returns batches of a data set of tensors, or of subsets of one, equal to those of `default_collate`.

    Args:
        dataset: a `TensorDataset`, or `Subset`s of one.
    """

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def __getitems__(self, indices: Any) -> Any:
        """A batch; the fetcher of torch calls this method."""
        if set(map(type, indices)) != {int}:
            return default_collate([self.dataset[each] for each in indices])
        dataset: Any = self.dataset
        while type(dataset) is Subset:
            indices = [dataset.indices[each] for each in indices]
            dataset = dataset.dataset
        index = torch.tensor(indices)
        return [tensor[index] for tensor in dataset.tensors]


def at_once(loader: Any) -> Any:
    """A loader with the same batches in the same order, which is faster if the items are rows of tensors.

    It is a `DataLoader` with the same batch sampler and generator, so it draws the same random numbers. For
    the MLP of `benchmarks/lean.py` a pass over the data takes 0.4 of the time.

    Args:
        loader: any loader.

    Returns:
        The faster loader for a plain `DataLoader`, without workers, pinned memory or `collate_fn`, over a
        `TensorDataset` of plain tensors on the CPU or `Subset`s of one. Any other loader is returned itself.
    """
    if type(loader) is not DataLoader or loader.num_workers or loader.pin_memory:
        return loader
    if loader.collate_fn is not default_collate or loader.batch_sampler is None:
        return loader
    dataset: Any = loader.dataset
    while type(dataset) is Subset:
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or not all(map(is_plain, dataset.tensors)):
        return loader
    return DataLoader(
        Collated(loader.dataset),
        batch_sampler=loader.batch_sampler,
        generator=loader.generator,
        collate_fn=as_it_is,
    )


def is_plain(tensor: Any) -> bool:
    """Do rows by index have the same memory layout as rows that are stacked one by one?"""
    return (
        type(tensor) is Tensor
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.requires_grad
        and not tensor.is_quantized
    )


def as_it_is(batch: Any) -> Any:
    """The batch itself, because it is collated already."""
    return batch
