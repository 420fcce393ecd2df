"""What to do where the loop waits for its data, by the kind of loader."""

from __future__ import annotations

import os
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from learner.data.batching import TensorLoader
from learner.data.generators import walk
from learner.data.stored import Stored
from learner.passes.own_positions import is_of_nodes

# Where the classes lie of streams that share their items between workers; the first two read whole shards.
WEBDATASET = "webdataset."
BY_SHARDS = (WEBDATASET, "datasets.iterable_dataset")
SHARED = (*BY_SHARDS, "litdata.streaming.", "streaming.base.")
MEMORY = (
    "if the data is tensors in memory, or arrays that np.load(path, mmap_mode='r') maps from a file, "
    "use Data.from_tensors(inputs, targets)"
)
OWN_SHARE = (
    "Each worker must yield its own share of an IterableDataset: see torch.utils.data.get_worker_info()."
)


def remedy_for(loader: Any, share: float) -> str:
    """How to reduce the time that the loop waits for its data, a share of a step."""
    parts = [part for _, part in walk(loader)]
    if isinstance(loader, TensorLoader):
        remedy = of_tensors(loader)
    elif is_of_nodes(loader):
        remedy = of_nodes(parts)
    else:
        inner = next((part for part in parts if isinstance(part, DataLoader)), None)
        remedy = without_workers(loader) if inner is None else of_workers(loader, inner, parts)
    return f"The loop waits for data {share:.0%} of a step: {remedy}"


def of_tensors(loader: TensorLoader) -> str:
    """For tensors that are indexed in batches."""
    if not loader.blocks and any_mapped(loader):
        return "items are read one by one from a file; read neighbours together with order='blocks'."
    return "a batch takes little time; use larger batches, as in Data.from_tensors(batch_size=...)."


def any_mapped(loader: TensorLoader) -> bool:
    """Is something read from a file, in a shuffled order?"""
    stored = [column.file for column in loader.tensors if isinstance(column, Stored)]
    return loader.shuffle and any(file is not None for file in stored)


def of_nodes(parts: list[Any]) -> str:
    """For a `torchdata.nodes.Loader`: its nodes with workers, or those that it could have."""
    mappers = (part for part in parts if hasattr(part, "map_fn") and getattr(part, "num_workers", 0))
    mapper = next(mappers, None)  # nodes.Mapper makes one without workers
    if mapper is None:
        return (
            "use nodes.ParallelMapper(source, function, num_workers=2) instead of nodes.Mapper; or end with "
            "nodes.Prefetcher(source, prefetch_factor=2), which prepares batches ahead in a thread."
        )
    process = "; or method='process', if Python code takes the time" if mapper.method == "thread" else ""
    return f"use more workers in the {type(mapper).__name__} ({workers_of(mapper)}){process}."


def of_workers(loader: Any, inner: DataLoader[Any], parts: list[Any]) -> str:
    """For a `DataLoader` of torch or of a library, or for something that holds one."""
    name = type(loader if is_of(SHARED, loader) else inner).__name__
    more = f"use more workers in the {name} ({workers_of(inner)})"
    if any(is_of(BY_SHARDS, part) for part in parts):
        return f"{more}, at most as many as there are shards."
    if any(is_of(SHARED, part) for part in parts):
        return f"{more}."
    return f"{more}; or, {MEMORY}.{'' if shares_items(inner) else f' {OWN_SHARE}'}"


def without_workers(loader: Any) -> str:
    """For anything else that yields batches."""
    if is_of((WEBDATASET,), loader):
        return "use webdataset.WebLoader(dataset, batch_size=None, num_workers=2) to prepare batches ahead."
    end = f" {OWN_SHARE}" if isinstance(loader, IterableDataset) else ""
    return f"use a DataLoader(..., num_workers=2), which prepares batches ahead; or, {MEMORY}.{end}"


def is_of(places: tuple[str, ...], part: Any) -> bool:
    """Is its class, or one that it extends, defined there?"""
    return any(each.__module__.startswith(places) for each in type(part).__mro__)


def workers_of(part: Any) -> str:
    """Its number of workers, and the number of cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"it has num_workers={part.num_workers}, and this machine has {cores} cores"


def shares_items(loader: DataLoader[Any]) -> bool:
    """Do several workers share the items, rather than yield all of them each, as far as can be seen?"""
    if not isinstance(loader.dataset, IterableDataset) or loader.worker_init_fn is not None:
        return True
    code = getattr(type(loader.dataset).__iter__, "__code__", None)
    return code is not None and "get_worker_info" in code.co_names
